// GEMM tile: outer products of activation rows with packed weight panels, accumulators in
// registers.
//
// Each output element is one chain of multiply-adds over k in index order, so its bits depend on
// its row and its weights alone: not on the tile it was computed in.
#include "cpu/kernels/functions.h"
#include "cpu/kernels/vec.h"

namespace phi3::cpu::PHI3_ISA {
namespace {

// With fewer rows a tile waits for its panels' memory; with more, prefetches only cost issue slots.
constexpr int kPrefetchRows = 4;

// The same number, but not to the compiler: it loads again what it would otherwise keep in
// registers that the accumulators need.
inline std::int64_t opaque(std::int64_t value) {
  asm("" : "+r"(value));
  return value;
}

template <int kRows, int kPanels>
struct Accumulators {
  F v[kRows][kPanels];

  void start(const GemmTile& tile, const float* out) {
    for (int r = 0; r < kRows; ++r) {
      for (int p = 0; p < kPanels; ++p) {
        v[r][p] = tile.accumulate ? load(out + r * tile.out_stride + p * kLanes) : zero();
      }
    }
  }
  void finish(const GemmTile& tile, float* out) const {
    for (int r = 0; r < kRows; ++r) {
      for (int p = 0; p < kPanels; ++p) store(out + r * tile.out_stride + p * kLanes, v[r][p]);
    }
  }
};

template <typename T, int kCount>
struct Pointers {
  const T* at[kCount];

  Pointers(const void* const* from) {
    for (int i = 0; i < kCount; ++i) at[i] = static_cast<const T*>(from[i]);
  }
};

template <int kRows, int kPanels>
void tile_f32(const GemmTile& tile, int row, int panel) {
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

template <int kRows, int kPanels>
void tile_int8(const GemmTile& tile, int row, int panel) {
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

template <int kRows, int kPanels>
void tile_bf16(const GemmTile& tile, int row, int panel) {
  float* out = tile.out + row * tile.out_stride + panel * kLanes;
  const Pointers<std::uint16_t, kRows> x(tile.x + row);
  const Pointers<std::uint16_t, kPanels> w(tile.panels + panel);
  const Pointers<std::uint16_t, kPanels> next(tile.prefetch + panel);
  Accumulators<kRows, kPanels> acc;
  acc.start(tile, out);
  const std::int64_t num_pairs = tile.k / 2;
  for (std::int64_t pair = 0; pair < num_pairs; ++pair) {
    // Two passes, so that only one half of the unpacked operands occupies registers at a time.
    F weights[kPanels];
    for (int p = 0; p < kPanels; ++p) {
      if constexpr (kRows <= kPrefetchRows) prefetch(next.at[p] + pair * 2 * kLanes);
      weights[p] = even(load_pairs(w.at[p] + pair * 2 * kLanes));
    }
    for (int r = 0; r < kRows; ++r) {
      const F value = even(broadcast_pair(x.at[r] + pair * 2));
      for (int p = 0; p < kPanels; ++p) acc.v[r][p] = fma(value, weights[p], acc.v[r][p]);
    }
    const std::int64_t again = opaque(pair);
    for (int p = 0; p < kPanels; ++p) {
      weights[p] = odd(load_pairs(w.at[p] + again * 2 * kLanes));
    }
    for (int r = 0; r < kRows; ++r) {
      const F value = odd(broadcast_pair(x.at[r] + again * 2));
      for (int p = 0; p < kPanels; ++p) acc.v[r][p] = fma(value, weights[p], acc.v[r][p]);
    }
  }
  if (tile.k % 2 != 0) {
    for (int r = 0; r < kRows; ++r) {
      const std::uint16_t last[2] = {x.at[r][tile.k - 1], 0};
      const F value = even(broadcast_pair(last));
      for (int p = 0; p < kPanels; ++p) {
        const F weight = even(load_pairs(w.at[p] + num_pairs * 2 * kLanes));
        acc.v[r][p] = fma(value, weight, acc.v[r][p]);
      }
    }
  }
  acc.finish(tile, out);
}

using TileFn = void (*)(const GemmTile&, int row, int panel);

enum class Panels { kF32, kBf16, kInt8 };

template <Panels kKind, int kRows, int kPanels>
constexpr TileFn tile_fn() {
  if constexpr (kRows * kPanels > kAccumulators) {
    return nullptr;
  } else if constexpr (kKind == Panels::kBf16) {
    return tile_bf16<kRows, kPanels>;
  } else if constexpr (kKind == Panels::kInt8) {
    return tile_int8<kRows, kPanels>;
  } else {
    return tile_f32<kRows, kPanels>;
  }
}

template <Panels kKind>
struct TileTable {
  TileFn at[kTileRows][kTilePanels];
};

template <Panels kKind, int kRows>
constexpr void fill_row(TileTable<kKind>& table) {
  table.at[kRows - 1][0] = tile_fn<kKind, kRows, 1>();
  table.at[kRows - 1][1] = tile_fn<kKind, kRows, 2>();
  table.at[kRows - 1][2] = tile_fn<kKind, kRows, 3>();
  table.at[kRows - 1][3] = tile_fn<kKind, kRows, 4>();
}

template <Panels kKind>
constexpr TileTable<kKind> make_table() {
  TileTable<kKind> table{};
  fill_row<kKind, 1>(table);
  fill_row<kKind, 2>(table);
  fill_row<kKind, 3>(table);
  fill_row<kKind, 4>(table);
  fill_row<kKind, 5>(table);
  fill_row<kKind, 6>(table);
  return table;
}

constexpr int min_int(int a, int b) { return a < b ? a : b; }

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Covers the tile with register tiles, as many rows as fit first: they share the unpacked weights.
template <Panels kKind>
void gemm(const GemmTile& tile) {
  static constexpr TileTable<kKind> kTable = make_table<kKind>();
  const int max_rows = min_int(tile.num_rows, kRegisterRows);
  for (int row = 0; row < tile.num_rows; row += max_rows) {
    const int rows = min_int(max_rows, tile.num_rows - row);
    const int num_parts = ceil_div(tile.num_panels, min_int(tile.num_panels, kAccumulators / rows));
    const int max_panels = ceil_div(tile.num_panels, num_parts);
    for (int panel = 0; panel < tile.num_panels; panel += max_panels) {
      const int panels = min_int(max_panels, tile.num_panels - panel);
      kTable.at[rows - 1][panels - 1](tile, row, panel);
    }
  }
}

}  // namespace

void gemm_f32(const GemmTile& tile) { gemm<Panels::kF32>(tile); }
void gemm_bf16(const GemmTile& tile) { gemm<Panels::kBf16>(tile); }
void gemm_int8(const GemmTile& tile) { gemm<Panels::kInt8>(tile); }

}  // namespace phi3::cpu::PHI3_ISA
