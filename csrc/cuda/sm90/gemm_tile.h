// Which tile of sums a block of the GEMMs of sm_90a computes; includes no CUDA header.
#pragma once

#include <cstdint>

namespace phi3::cuda::sm90 {

// Weight rows × tokens. Those of 64 rows run two blocks to a multiprocessor, that of 128 one that
// takes tile after tile, with less to read per sum.
enum class WgmmaTile : std::uint8_t { k64x16, k64x32, k64x64, k128x128 };

inline constexpr WgmmaTile kGemmTiles[] = {
    WgmmaTile::k64x16, WgmmaTile::k64x32, WgmmaTile::k64x64, WgmmaTile::k128x128};

constexpr std::int64_t tile_rows(WgmmaTile tile) { return tile == WgmmaTile::k128x128 ? 128 : 64; }

constexpr std::int64_t tile_tokens(WgmmaTile tile) {
  switch (tile) {
    case WgmmaTile::k64x16:
      return 16;
    case WgmmaTile::k64x32:
      return 32;
    case WgmmaTile::k64x64:
      return 64;
    case WgmmaTile::k128x128:
      return 128;
  }
  return 0;
}

// The least that holds all tokens; from 65 tokens on the large one, unless it leaves half of the
// multiprocessors idle.
constexpr WgmmaTile choose_gemm_tile(std::int64_t num_rows, std::int64_t num_tokens, int num_sms) {
  for (const WgmmaTile tile : {WgmmaTile::k64x16, WgmmaTile::k64x32, WgmmaTile::k64x64}) {
    if (num_tokens <= tile_tokens(tile)) return tile;
  }
  const auto tiles = [](std::int64_t size, std::int64_t tile) { return (size + tile - 1) / tile; };
  const std::int64_t num_large = tiles(num_rows, 128) * tiles(num_tokens, 128);
  return 2 * num_large < num_sms ? WgmmaTile::k64x64 : WgmmaTile::k128x128;
}

}  // namespace phi3::cuda::sm90
