// GEMM tile with bfloat16 panels: float32 chains of multiply-adds over k, of each pair the odd one
// first. That is what VDPBF16PS does, so every ISA has the same bits (but for numbers below 1e-38,
// which that instruction takes for 0).
#include "cpu/kernels/accumulators.h"
#include "cpu/kernels/functions.h"
#include "cpu/kernels/register_tiles.h"

namespace phi3::cpu::PHI3_ISA {
namespace {

#if !defined(PHI3_HAS_BF16)
// The same number, but not to the compiler: it loads again what it would otherwise keep in
// registers that the accumulators need.
inline std::int64_t opaque(std::int64_t value) {
  asm("" : "+r"(value));
  return value;
}
#endif

struct BFloat16Tile {
  static constexpr int kMaxRows = kRegisterRows;
  static constexpr int kAccumulators = PHI3_ISA::kAccumulators;

  template <int kRows, int kPanels>
  static void run(const GemmTile& tile, int row, int panel) {
    float* out = tile.out + row * tile.out_stride + panel * kLanes;
    const Pointers<std::uint16_t, kRows> x(tile.x + row);
    const Pointers<std::uint16_t, kPanels> w(tile.panels + panel);
    const Pointers<std::uint16_t, kPanels> next(tile.prefetch + panel);
    Accumulators<kRows, kPanels> acc;
    acc.start(tile, out);
    const std::int64_t num_pairs = tile.k / 2;
    for (std::int64_t pair = 0; pair < num_pairs; ++pair) {
      if constexpr (kRows <= kPrefetchRows) {
        for (int p = 0; p < kPanels; ++p) prefetch(next.at[p] + pair * 2 * kLanes);
      }
      add_pair(
          acc, w, pair, [&](int r, std::int64_t at) { return broadcast_pair(x.at[r] + at * 2); });
    }
    if (tile.k % 2 != 0) {
      add_pair(acc, w, num_pairs, [&](int r, std::int64_t) {
        const std::uint16_t last[2] = {x.at[r][tile.k - 1], 0};
        return broadcast_pair(last);
      });
    }
    acc.finish(tile, out);
  }

 private:
  template <int kRows, int kPanels, typename PairOf>
  static void add_pair(Accumulators<kRows, kPanels>& acc,
                       const Pointers<std::uint16_t, kPanels>& w,
                       std::int64_t pair,
                       PairOf pair_of) {
#if defined(PHI3_HAS_BF16)
    Bits weights[kPanels];
    for (int p = 0; p < kPanels; ++p) weights[p] = load_pairs(w.at[p] + pair * 2 * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Bits value = pair_of(r, pair);
      for (int p = 0; p < kPanels; ++p) acc.v[r][p] = dot_pairs(acc.v[r][p], value, weights[p]);
    }
#else
    // Two passes, so that only one half of the unpacked operands occupies registers at a time. A
    // product of two bfloat16 is exact.
    F weights[kPanels];
    for (int p = 0; p < kPanels; ++p) weights[p] = odd(load_pairs(w.at[p] + pair * 2 * kLanes));
    for (int r = 0; r < kRows; ++r) {
      const F value = odd(pair_of(r, pair));
      for (int p = 0; p < kPanels; ++p) {
        acc.v[r][p] = add_exact_product(value, weights[p], acc.v[r][p]);
      }
    }
    const std::int64_t again = opaque(pair);
    for (int p = 0; p < kPanels; ++p) weights[p] = even(load_pairs(w.at[p] + again * 2 * kLanes));
    for (int r = 0; r < kRows; ++r) {
      const F value = even(pair_of(r, again));
      for (int p = 0; p < kPanels; ++p) {
        acc.v[r][p] = add_exact_product(value, weights[p], acc.v[r][p]);
      }
    }
#endif
  }
};

}  // namespace

void gemm_bf16(const GemmTile& tile) { cover<BFloat16Tile>(tile); }

}  // namespace phi3::cpu::PHI3_ISA
