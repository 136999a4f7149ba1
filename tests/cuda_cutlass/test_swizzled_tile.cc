// SwizzledTile, and wgmma's reading of it in the emulator, beside CuTe's layouts and descriptors.
#include <cstddef>
#include <cstdint>

namespace {
alignas(1024) unsigned char shared[64 * 128 * 2];
}
// CuTe takes shared memory's addresses from this function, which only device code has.
#define CUTE_CVTA_GENERIC_TO_SHARED_ACTIVATED 1
inline std::size_t __cvta_generic_to_shared(const void* pointer) {
  return static_cast<std::size_t>(static_cast<const unsigned char*>(pointer) - shared);
}

#include <cute/atom/mma_traits_sm90_gmma.hpp>
#include <cute/tensor.hpp>

#include "check.h"
#include "cuda/sm90/swizzled_tile.h"
#include "wgmma_address.h"

namespace {

namespace gmma = cute::SM90::GMMA;
using Element = cute::bfloat16_t;
using cute::Int;

constexpr int kRows = 64;
constexpr int kDepth = 16;

template <int kColumns>
using Tile = phi3::cuda::sm90::SwizzledTile<kRows, kColumns>;

// The tile in CuTe's layout of the same swizzle: rows by columns (K), or columns by rows (MN).
template <int kColumns, gmma::Major major>
auto cute_tile() {
  auto* data = reinterpret_cast<Element*>(shared);
  using Atom = std::conditional_t<Tile<kColumns>::kBandBytes == 128,
                                  gmma::Layout_SW128_Atom<Element, major>,
                                  gmma::Layout_SW64_Atom<Element, major>>;
  if constexpr (major == gmma::Major::K) {
    const auto shape = cute::Shape<Int<kRows>, Int<kColumns>>{};
    return cute::make_tensor(cute::make_smem_ptr(data), cute::tile_to_shape(Atom{}, shape));
  } else {
    const auto shape = cute::Shape<Int<kColumns>, Int<kRows>>{};
    return cute::make_tensor(cute::make_smem_ptr(data),
                             cute::tile_to_shape(Atom{}, shape, cute::Step<cute::_2, cute::_1>{}));
  }
}

int byte_of(const Element& element) {
  return static_cast<int>(reinterpret_cast<const unsigned char*>(&element) - shared);
}

// What the hardware does not look at: the step between bands where there is one.
std::uint64_t without_band_step(std::uint64_t descriptor) { return descriptor & ~0x3fff0000ULL; }

template <int kColumns>
void compare_layouts() {
  const auto by_rows = cute_tile<kColumns, gmma::Major::K>();
  const auto by_columns = cute_tile<kColumns, gmma::Major::MN>();
  int differences = 0;
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      const int byte = Tile<kColumns>::offset(row, column / 8) + column % 8 * 2;
      differences += byte_of(by_rows(row, column)) != byte;
      differences += byte_of(by_columns(column, row)) != byte;
    }
  }
  EXPECT_EQ(differences, 0);
}

template <int kColumns>
void compare_descriptors() {
  const auto by_rows = cute_tile<kColumns, gmma::Major::K>();
  for (int step = 0; step < kColumns / kDepth; ++step) {
    const auto part = cute::local_tile(
        by_rows, cute::Shape<Int<kRows>, Int<kDepth>>{}, cute::make_coord(0, step));
    const std::uint64_t descriptor = gmma::make_gmma_desc<gmma::Major::K>(part);
    EXPECT_EQ(descriptor, Tile<kColumns>::over_columns(0, step * kDepth));
    int differences = 0;
    for (int depth = 0; depth < kDepth; ++depth) {
      for (int row = 0; row < kRows; ++row) {
        const auto address = phi3::emulator::wgmma_address(descriptor, false, depth, row);
        differences += byte_of(part(row, depth)) != static_cast<int>(address);
      }
    }
    EXPECT_EQ(differences, 0);
  }
  const auto by_columns = cute_tile<kColumns, gmma::Major::MN>();
  for (int step = 0; step < kRows / kDepth; ++step) {
    const auto part = cute::local_tile(
        by_columns, cute::Shape<Int<kColumns>, Int<kDepth>>{}, cute::make_coord(0, step));
    const std::uint64_t descriptor = gmma::make_gmma_desc<gmma::Major::MN>(part);
    const std::uint64_t own = Tile<kColumns>::over_rows(0, step * kDepth);
    if (kColumns * 2 > Tile<kColumns>::kBandBytes) EXPECT_EQ(descriptor, own);
    EXPECT_EQ(without_band_step(descriptor), without_band_step(own));
    int differences = 0;
    for (int depth = 0; depth < kDepth; ++depth) {
      for (int column = 0; column < kColumns; ++column) {
        const auto address = phi3::emulator::wgmma_address(descriptor, true, depth, column);
        differences += byte_of(part(column, depth)) != static_cast<int>(address);
      }
    }
    EXPECT_EQ(differences, 0);
  }
}

}  // namespace

TEST(layout_is_cutes) {
  compare_layouts<64>();
  compare_layouts<96>();
  compare_layouts<128>();
}

TEST(descriptors_are_cutes) {
  compare_descriptors<64>();
  compare_descriptors<96>();
  compare_descriptors<128>();
}
