// Multiplies the same numbers with mma.sync and with WGMMA, by each shape and order of factors that
// attention has, and with both factors in shared memory as GEMMs have them; compares bits after
// every few steps. More columns than one of those has are not known to change a sum.
#pragma once

#include <cstdint>

#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda/sm90/swizzled_tile.h"
#include "cuda/sm90/warpgroup.h"
#include "cuda/sm90/wgmma.h"

namespace phi3::cuda::sm90 {

struct ProbeParams {
  unsigned* num_different;  // sums; added to
};

// What kind of numbers a block has decides which roundings its sums meet.
enum class ProbeKind : unsigned { kAlike, kWide, kCancelling, kTiny };
inline constexpr unsigned kNumProbeKinds = 4;

// A block has the tile of one warpgroup, and goes through k in chunks that lie in shared memory.
inline constexpr int kProbeRows = 64;
inline constexpr int kProbeChunk = 64;
inline constexpr int kProbeSteps = kProbeChunk / 16;
inline constexpr int kProbeChunks = 64;
inline constexpr int kProbeSumChunks = 8;  // until sums begin anew

template <int kColumns, bool kTransposed>
struct ProbeTiles {
  using A = SwizzledTile<kProbeRows, kProbeChunk>;
  using B =
      SwizzledTile<kTransposed ? kProbeChunk : kColumns, kTransposed ? kColumns : kProbeChunk>;

  alignas(1024) unsigned char a[A::kBytes];
  alignas(1024) unsigned char b[B::kBytes];
};

namespace detail {

PHI3_DEVICE std::uint32_t hash(std::uint32_t x) {  // murmur3's finalizer
  x = (x ^ (x >> 16)) * 0x85ebca6bU;
  x = (x ^ (x >> 13)) * 0xc2b2ae35U;
  return x ^ (x >> 16);
}

// Element `at` of a factor that `seed` names, as a bfloat16's bits: sign and mantissa at random,
// exponents as the kind.
PHI3_DEVICE std::uint16_t probe_element(ProbeKind kind, std::uint32_t seed, std::uint32_t at) {
  const std::uint32_t bits = hash(seed ^ hash(at));
  const std::uint32_t draw = bits >> 16;
  std::uint32_t exponent = 126 + draw % 3;
  switch (kind) {
    case ProbeKind::kAlike:
      break;
    case ProbeKind::kWide:
      exponent = 107 + draw % 40;
      break;
    case ProbeKind::kCancelling: {  // runs of large ones of both signs, small ones between
      exponent = draw % 4 == 0 ? 115 + draw % 7 : 132;
      const std::uint32_t mantissa = draw % 4 == 0 ? bits & 0x7fU : 0x40U | (bits & 1U);
      return static_cast<std::uint16_t>((bits & 0x8000U) | exponent << 7 | mantissa);
    }
    case ProbeKind::kTiny:  // zeros, and products that are subnormal or none
      if (draw % 4 == 0) return static_cast<std::uint16_t>(bits & 0x8000U);
      exponent = draw % 5 == 0 ? 0 : 50 + draw % 30;
      break;
  }
  return static_cast<std::uint16_t>((bits & 0x8000U) | exponent << 7 | (bits & 0x7fU));
}

template <typename Tile, typename T>
PHI3_DEVICE T read(const unsigned char* tile, int row, int column) {
  return *reinterpret_cast<const T*>(tile + Tile::offset(row, column / 8) + column % 8 * 2);
}

// Neighbours in depth, the first of an even one, as mma_m16n8k16 takes them.
template <typename Tile, bool kTransposed>
PHI3_DEVICE std::uint32_t pair_at(const unsigned char* tile, int column, int depth) {
  if constexpr (kTransposed) {
    const std::uint32_t high = read<Tile, std::uint16_t>(tile, depth + 1, column);
    return read<Tile, std::uint16_t>(tile, depth, column) | high << 16;
  } else {
    return read<Tile, std::uint32_t>(tile, column, depth);
  }
}

// What this thread has of the first factor.
template <typename Tile>
PHI3_DEVICE void load_a(const unsigned char* tile, int step, std::uint32_t (&a)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int row = static_cast<int>(threadIdx.x) / kWarpSize * 16 + lane / 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int depth = 16 * step + 2 * (lane % 4) + i / 2 * 8;
    a[i] = pair_at<Tile, false>(tile, row + i % 2 * 8, depth);
  }
}

template <typename Tile>
PHI3_DEVICE void fill(unsigned char* tile, ProbeKind kind, std::uint32_t seed) {
  for (int at = static_cast<int>(threadIdx.x); at < Tile::kBytes / 2; at += kWarpgroupSize) {
    reinterpret_cast<std::uint16_t*>(tile)[at] =
        probe_element(kind, seed, static_cast<std::uint32_t>(at));
  }
}

}  // namespace detail

// By the WGMMA of so many columns, whose second factor lies transposed or not, as that of values
// and of keys, and whose first lies in shared memory or in registers.
template <int kColumns, bool kTransposed, bool kSharedA>
__global__ void __launch_bounds__(kWarpgroupSize) mma_probe(ProbeParams params) {
  using Tiles = ProbeTiles<kColumns, kTransposed>;
  using A = typename Tiles::A;
  using B = typename Tiles::B;
  constexpr int kGroups = kColumns / 8;
  auto& tiles = *reinterpret_cast<Tiles*>(shared_memory());
  const std::uint32_t a_address = shared_address(tiles.a);
  const std::uint32_t b_address = shared_address(tiles.b);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const auto kind = static_cast<ProbeKind>(blockIdx.x % kNumProbeKinds);
  float sums[kGroups][4];
  float sums_sync[kGroups][4];
  unsigned num_different = 0;
  for (int chunk = 0; chunk < kProbeChunks; ++chunk) {
    const std::uint32_t seed = detail::hash(blockIdx.x * kProbeChunks + unsigned(chunk));
    detail::fill<A>(tiles.a, kind, seed);
    detail::fill<B>(tiles.b, kind, ~seed);
    fence_for_wgmma();
    __syncthreads();
    std::uint32_t a[kProbeSteps][4];
#pragma unroll
    for (int step = 0; step < kProbeSteps; ++step) detail::load_a<A>(tiles.a, step, a[step]);
    const bool goes_on = chunk % kProbeSumChunks != 0;
    if (!goes_on) {
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[group][i] = sums_sync[group][i] = 0;
      }
    }

    wgmma_fence(sums, a);
#pragma unroll
    for (int step = 0; step < kProbeSteps; ++step) {
      const std::uint64_t b =
          kTransposed ? B::over_rows(b_address, 16 * step) : B::over_columns(b_address, 16 * step);
      const bool accumulate = goes_on || step > 0;
      if constexpr (kSharedA) {
        wgmma_k16(sums, A::over_columns(a_address, 16 * step), b, accumulate);
      } else {
        wgmma_k16<kTransposed>(sums, a[step], b, accumulate);
      }
    }
    wgmma_commit();
    wgmma_wait<0>(sums);

#pragma unroll 1  // or registers do not do
    for (int step = 0; step < kProbeSteps; ++step) {
      std::uint32_t a_sync[4];
      detail::load_a<A>(tiles.a, step, a_sync);
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        std::uint32_t b[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int depth = 16 * step + 8 * half + 2 * (lane % 4);
          b[half] = detail::pair_at<B, kTransposed>(tiles.b, 8 * group + lane / 4, depth);
        }
        mma_m16n8k16(sums_sync[group], a_sync, b);
      }
    }
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        num_different += __float_as_uint(sums[group][i]) != __float_as_uint(sums_sync[group][i]);
      }
    }
    __syncthreads();  // before the next chunk is written
  }
  if (num_different != 0) atomicAdd(params.num_different, num_different);
}

template <int kColumns, bool kTransposed, bool kSharedA>
void launch_mma_probe(unsigned num_blocks, Stream stream, const ProbeParams& params) {
  launch<mma_probe<kColumns, kTransposed, kSharedA>>(
      {.grid = dim3(num_blocks),
       .threads = kWarpgroupSize,
       .shared_bytes = sizeof(ProbeTiles<kColumns, kTransposed>)},
      stream,
      params);
}

// Each adds to the same counter.
inline void launch_mma_probes(unsigned num_blocks, Stream stream, const ProbeParams& params) {
  launch_mma_probe<64, false, true>(num_blocks, stream, params);
  launch_mma_probe<64, false, false>(num_blocks, stream, params);
  launch_mma_probe<96, false, false>(num_blocks, stream, params);
  launch_mma_probe<128, false, false>(num_blocks, stream, params);
  launch_mma_probe<64, true, false>(num_blocks, stream, params);
  launch_mma_probe<96, true, false>(num_blocks, stream, params);
  launch_mma_probe<128, true, false>(num_blocks, stream, params);
}

}  // namespace phi3::cuda::sm90
