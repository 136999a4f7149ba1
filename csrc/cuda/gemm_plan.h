// Which kernel and which tile compute a GEMM out[t][n] = Σ_k x[t][k] · W[n][k]; includes no CUDA
// header.
//
// Whatever is chosen, a sum has one order: k is cut into four spans; within a span a float32 sum
// takes k16 steps of the matrix instruction by rising k; then ((p0 + p1) + p2) + p3.
#pragma once

#include <cstdint>

#include "core/weight_format.h"
#include "cuda/kernel_policy.h"
#include "cuda/sm90/gemm_tile.h"

namespace phi3::cuda {

inline constexpr int kGemmSpans = 4;

// k of a span; of the last ones there may be fewer, or none.
constexpr std::int64_t gemm_span(std::int64_t k) {
  return round_up((k + kGemmSpans - 1) / kGemmSpans, 64);
}

enum class GemmKernel : std::uint8_t {
  kFloat32,  // fmaf on CUDA cores, x float32
  kDecode,   // mma.sync, a warp per span: few tokens
  kTiled,    // mma.sync, a block per tile
  kWgmma,    // sm_90a
};

// What a block computes, weight rows × tokens, and how many stages of k it has in shared memory if
// they fit.
struct GemmTile {
  int rows, tokens, max_stages;
};

// Weights in flight are what a decode kernel lives by: many small rings to a multiprocessor, or,
// where there are few blocks, deep ones.
inline constexpr GemmTile kDecodeTiles[] = {{16, 8, 3}, {16, 8, 6}, {16, 16, 6}, {32, 16, 3}};
inline constexpr GemmTile kTiledTiles[] = {{64, 64, 4}, {128, 128, 3}};
inline constexpr GemmTile kFloat32Tile{32, 32, 1};
inline constexpr std::int64_t kMaxDecodeTokens = 16;

// A row of a tile in shared memory; what weights it holds is the k of a stage.
inline constexpr int kTileRowBytes = 128;

inline constexpr int kActivationBytes = 2;
constexpr int stage_k(int weight_bytes) { return kTileRowBytes / weight_bytes; }

// Bytes of the weights and activations of a stage.
constexpr int stage_bytes(GemmTile tile, int weight_bytes) {
  return tile.rows * kTileRowBytes + tile.tokens * stage_k(weight_bytes) * kActivationBytes;
}

// Blocks stay below what every GPU from sm_80 on can give to one, 99 KB.
inline constexpr int kMaxGemmSharedBytes = 96 * 1024;

// Of each of the rings of a block: one, or one per warp in a decode kernel.
constexpr int num_stages(GemmTile tile, int weight_bytes, int num_rings) {
  const int fit = kMaxGemmSharedBytes / (num_rings * stage_bytes(tile, weight_bytes));
  return fit < tile.max_stages ? fit : tile.max_stages;
}
constexpr int ring_bytes(GemmTile tile, int weight_bytes, int num_rings) {
  return num_stages(tile, weight_bytes, num_rings) * stage_bytes(tile, weight_bytes);
}

// The tile of a block: tokens of a band of eight tiles run fastest, so that blocks that run at the
// same time share weights as well as activations.
struct TileIndex {
  std::uint32_t row, token;
};
constexpr TileIndex tile_of(std::uint32_t block,
                            std::uint32_t num_row_tiles,
                            std::uint32_t num_token_tiles) {
  constexpr std::uint32_t kBand = 8;
  const std::uint32_t band = block / (kBand * num_row_tiles) * kBand;
  const std::uint32_t left = num_token_tiles - band;
  const std::uint32_t width = left < kBand ? left : kBand;
  const std::uint32_t in_band = block - band * num_row_tiles;
  return {.row = in_band / width, .token = band + in_band % width};
}

struct GemmShape {
  std::int64_t num_tokens;
  std::int64_t num_rows;  // padded
  bool is_f32;            // x is float32, not bfloat16
};

struct GemmDevice {
  int num_sms;
  bool has_wgmma;   // and its copies can read these operands
  bool mma_agrees;  // WGMMA and mma.sync have the same bits
};

struct GemmPlan {
  GemmKernel kernel;
  int tile = 0;                  // of kDecodeTiles or kTiledTiles
  sm90::WgmmaTile wgmma_tile{};  // of kWgmma
};

GemmPlan plan_gemm(const GemmShape& shape, const GemmDevice& device, KernelPolicy policy);

}  // namespace phi3::cuda
