// Covers a GEMM tile with register tiles: as many rows at a time as fit, so that they share what is
// loaded of the weights.
#pragma once

#include "cpu/kernels/kernels.h"

namespace phi3::cpu::PHI3_ISA {
namespace {

template <typename Tile>
using RegisterTile = void (*)(const Tile&, int row, int panel);

constexpr int min_int(int a, int b) { return a < b ? a : b; }

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

template <typename Tile, int kMaxRows>
struct RegisterTiles {
  RegisterTile<Tile> at[kMaxRows][kTilePanels];
};

template <typename Kind, typename Tile, int kRows, int kPanels>
constexpr RegisterTile<Tile> register_tile() {
  if constexpr (kRows * kPanels > Kind::kAccumulators) {
    return nullptr;
  } else {
    return Kind::template run<kRows, kPanels>;
  }
}

template <typename Kind, typename Tile, int kMaxRows, int kRows = 1>
constexpr void fill_rows(RegisterTiles<Tile, kMaxRows>& tiles) {
  if constexpr (kRows <= kMaxRows) {
    tiles.at[kRows - 1][0] = register_tile<Kind, Tile, kRows, 1>();
    tiles.at[kRows - 1][1] = register_tile<Kind, Tile, kRows, 2>();
    tiles.at[kRows - 1][2] = register_tile<Kind, Tile, kRows, 3>();
    tiles.at[kRows - 1][3] = register_tile<Kind, Tile, kRows, 4>();
    fill_rows<Kind, Tile, kMaxRows, kRows + 1>(tiles);
  }
}

template <typename Kind, typename Tile, int kMaxRows>
constexpr RegisterTiles<Tile, kMaxRows> make_tiles() {
  RegisterTiles<Tile, kMaxRows> tiles{};
  fill_rows<Kind, Tile, kMaxRows>(tiles);
  return tiles;
}

// Kind::run<rows, panels>(tile, row, panel) computes so many rows and panels, from those on; it is
// used for up to Kind::kMaxRows rows and Kind::kAccumulators of rows times panels.
template <typename Kind, typename Tile>
void cover(const Tile& tile) {
  static constexpr auto kTiles = make_tiles<Kind, Tile, Kind::kMaxRows>();
  const int num_blocks = ceil_div(tile.num_rows, Kind::kMaxRows);
  const int max_rows = ceil_div(tile.num_rows, num_blocks);
  for (int row = 0; row < tile.num_rows; row += max_rows) {
    const int rows = min_int(max_rows, tile.num_rows - row);
    const int fit = min_int(tile.num_panels, Kind::kAccumulators / rows);
    const int max_panels = ceil_div(tile.num_panels, ceil_div(tile.num_panels, fit));
    for (int panel = 0; panel < tile.num_panels; panel += max_panels) {
      const int panels = min_int(max_panels, tile.num_panels - panel);
      kTiles.at[rows - 1][panels - 1](tile, row, panel);
    }
  }
}

template <typename T, int kCount>
struct Pointers {
  const T* at[kCount];

  Pointers(const void* const* from) {
    for (int i = 0; i < kCount; ++i) at[i] = static_cast<const T*>(from[i]);
  }
};

// With fewer rows a tile waits for its panels' memory; with more, prefetches only cost issue slots.
constexpr int kPrefetchRows = 4;

}  // namespace
}  // namespace phi3::cpu::PHI3_ISA
