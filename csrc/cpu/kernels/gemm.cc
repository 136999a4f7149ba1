// GEMM tile: outer products of activation rows with packed weight panels, accumulators in
// registers. Here with float32 panels, and with int8 keys.
//
// Each output element is one chain of multiply-adds over k in index order, so its bits depend on
// its row and its weights alone: not on the tile it was computed in.
#include "cpu/kernels/accumulators.h"
#include "cpu/kernels/functions.h"
#include "cpu/kernels/register_tiles.h"

namespace phi3::cpu::PHI3_ISA {
namespace {

struct FloatTile {
  static constexpr int kMaxRows = kRegisterRows;
  static constexpr int kAccumulators = PHI3_ISA::kAccumulators;
};

struct F32 : FloatTile {
  template <int kRows, int kPanels>
  static void run(const GemmTile& tile, int row, int panel) {
    float* out = tile.out + row * tile.out_stride + panel * kLanes;
    const Pointers<float, kRows> x(tile.x + row);
    const Pointers<float, kPanels> w(tile.panels + panel);
    const Pointers<float, kPanels> next(tile.prefetch + panel);
    Accumulators<kRows, kPanels> acc;
    acc.start(tile, out);
    for (std::int64_t k = 0; k < tile.k; ++k) {
      F weights[kPanels];
      for (int p = 0; p < kPanels; ++p) {
        if constexpr (kRows <= kPrefetchRows) prefetch(next.at[p] + k * kLanes);
        weights[p] = load(w.at[p] + k * kLanes);
      }
      for (int r = 0; r < kRows; ++r) {
        const F value = set1(x.at[r][k]);
        for (int p = 0; p < kPanels; ++p) acc.v[r][p] = fma(value, weights[p], acc.v[r][p]);
      }
    }
    acc.finish(tile, out);
  }
};

struct Int8Keys : FloatTile {
  template <int kRows, int kPanels>
  static void run(const GemmTile& tile, int row, int panel) {
    constexpr std::int64_t kLineK = 64 / kLanes;  // as much k as one cache line holds
    float* out = tile.out + row * tile.out_stride + panel * kLanes;
    const Pointers<float, kRows> x(tile.x + row);
    const Pointers<std::int8_t, kPanels> w(tile.panels + panel);
    const Pointers<std::int8_t, kPanels> next(tile.prefetch + panel);
    Accumulators<kRows, kPanels> acc;
    acc.start(tile, out);
    for (std::int64_t line = 0; line < tile.k; line += kLineK) {
      for (int p = 0; p < kPanels; ++p) {
        if constexpr (kRows <= kPrefetchRows) prefetch(next.at[p] + line * kLanes);
      }
      for (std::int64_t k = line; k < line + kLineK; ++k) {
        F weights[kPanels];
        for (int p = 0; p < kPanels; ++p) weights[p] = load(w.at[p] + k * kLanes);
        for (int r = 0; r < kRows; ++r) {
          const F value = set1(x.at[r][k]);
          for (int p = 0; p < kPanels; ++p) acc.v[r][p] = fma(value, weights[p], acc.v[r][p]);
        }
      }
    }
    acc.finish(tile, out);
  }
};

}  // namespace

void gemm_f32(const GemmTile& tile) { cover<F32>(tile); }
void gemm_int8(const GemmTile& tile) { cover<Int8Keys>(tile); }

}  // namespace phi3::cpu::PHI3_ISA
