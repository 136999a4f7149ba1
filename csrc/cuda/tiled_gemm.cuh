// The GEMM of many tokens on mma.sync: a block of warps shares the stages of one tile of weight
// rows and tokens, through all spans of k.
#pragma once

#include <cstdint>

#include "cuda/gemm_tiles.cuh"

namespace phi3::cuda {

// Warps of a block, and what each has of its tile.
template <GemmTile kTile>
struct TileWarps {
  static constexpr int kAcrossRows = 2;
  static constexpr int kAcrossTokens = kTile.tokens / 32;
  static constexpr int kThreads = kAcrossRows * kAcrossTokens * kWarpSize;
  static constexpr int kWarpRows = kTile.rows / kAcrossRows;
  static constexpr int kRowTiles = kWarpRows / 16;
  static constexpr int kTokenTiles = 4;
};

// The sums of a warp's part of a tile; adds up spans.
template <typename Warps>
struct WarpSums {
  float span[Warps::kRowTiles][Warps::kTokenTiles][4] = {};
  float total[Warps::kRowTiles][Warps::kTokenTiles][4];

  // -0 is what a first span can be added to without changing, be it -0 itself.
  PHI3_DEVICE WarpSums() {
#pragma unroll
    for (int i = 0; i < Warps::kRowTiles; ++i) {
#pragma unroll
      for (int j = 0; j < Warps::kTokenTiles; ++j) {
#pragma unroll
        for (int d = 0; d < 4; ++d) total[i][j][d] = -0.0F;
      }
    }
  }

  // Weights · tokens of a k16 step of a stage.
  template <typename W, int kTokens>
  PHI3_DEVICE void add_step(const unsigned char* weights,
                            const unsigned char* tokens,
                            int row,
                            int token,
                            int step,
                            int lane) {
    std::uint32_t b[Warps::kTokenTiles][2];
#pragma unroll
    for (int j = 0; j < Warps::kTokenTiles; j += 2) {
      load_tokens<kTokens>(b[j], b[j + 1], tokens, token + j * 8, step, lane);
    }
#pragma unroll
    for (int i = 0; i < Warps::kRowTiles; ++i) {
      std::uint32_t a[4];
      load_weights<W>(a, weights, row + i * 16, step, lane);
#pragma unroll
      for (int j = 0; j < Warps::kTokenTiles; ++j) mma_m16n8k16(span[i][j], a, b[j]);
    }
  }

  PHI3_DEVICE void end_span() {
#pragma unroll
    for (int i = 0; i < Warps::kRowTiles; ++i) {
#pragma unroll
      for (int j = 0; j < Warps::kTokenTiles; ++j) {
#pragma unroll
        for (int d = 0; d < 4; ++d) {
          total[i][j][d] += span[i][j][d];
          span[i][j][d] = 0;
        }
      }
    }
  }
};

// kTileIdx: which of the kTiledTiles.
template <typename W, int kTileIdx, typename Epilogue>
__global__ void __launch_bounds__(TileWarps<kTiledTiles[kTileIdx]>::kThreads)
    tiled_gemm(GemmParams<Epilogue> p) {
  constexpr GemmTile kTile = kTiledTiles[kTileIdx];
  using Warps = TileWarps<kTile>;
  constexpr int kRows = kTile.rows;
  constexpr int kTokens = kTile.tokens;
  constexpr int kStageK = stage_k(sizeof(W));
  constexpr int kStageBytes = stage_bytes(kTile, sizeof(W));
  constexpr int kStages = num_stages(kTile, sizeof(W), 1);
  constexpr int kPaddedRows = kRows + 4;  // lanes that write different tokens: different banks
  static_assert(kTokens * kPaddedRows * sizeof(float) <= ring_bytes(kTile, sizeof(W), 1));
  const GemmOperands& in = p.operands;
  const TileIndex tile =
      tile_of(blockIdx.x,
              static_cast<std::uint32_t>((in.num_rows + kRows - 1) / kRows),
              static_cast<std::uint32_t>((in.num_tokens + kTokens - 1) / kTokens));
  const int row = static_cast<int>(tile.row) * kRows;
  const int token = static_cast<int>(tile.token) * kTokens;
  const int thread = threadIdx.x;
  const int lane = thread % kWarpSize;
  const int warp_row = thread / kWarpSize % Warps::kAcrossRows * Warps::kWarpRows;
  const int warp_token = thread / kWarpSize / Warps::kAcrossRows * (Warps::kTokenTiles * 8);

  const auto copy_stage = [&](int slot, StageWalk& stage) {
    if (stage.k < in.padded_k) {
      unsigned char* const at = shared_memory() + slot * kStageBytes;
      copy_weights<W, kRows, Warps::kThreads, false>(in, at, row, stage, thread);
      copy_tokens<kStageK, kTokens, Warps::kThreads>(
          in, at + kRows * kTileRowBytes, token, stage, thread);
      stage.advance(kStageK, in.span, in.padded_k);
    }
    cp_async_commit();
  };
  StageWalk walk(0, in.span, in.padded_k);
  StageWalk ahead = walk;
  for (int slot = 0; slot < kStages - 1; ++slot) copy_stage(slot, ahead);
  WarpSums<Warps> sums;
  int slot = 0;
  while (walk.k < in.padded_k) {
    cp_async_wait<kStages - 2>();
    __syncthreads();
    copy_stage(slot == 0 ? kStages - 1 : slot - 1, ahead);
    const unsigned char* const weights = shared_memory() + slot * kStageBytes;
    const unsigned char* const tokens = weights + kRows * kTileRowBytes;
    const auto add_step = [&](int step) {
      sums.template add_step<W, kTokens>(weights, tokens, warp_row, warp_token, step, lane);
    };
    if (walk.k + kStageK <= walk.span_end) {
#pragma unroll 4
      for (int step = 0; step < kStageK / 16; ++step) add_step(step);
    } else {
#pragma unroll 1
      for (int step = 0; step < walk.num_steps(kStageK); ++step) add_step(step);
    }
    if (walk.ends_span(kStageK)) sums.end_span();
    walk.advance(kStageK, in.span, in.padded_k);
    slot = slot == kStages - 1 ? 0 : slot + 1;
  }

  __syncthreads();  // the stages' memory is free
  auto* const staged = reinterpret_cast<float*>(shared_memory());
#pragma unroll
  for (int i = 0; i < Warps::kRowTiles; ++i) {
#pragma unroll
    for (int j = 0; j < Warps::kTokenTiles; ++j) {
#pragma unroll
      for (int d = 0; d < 4; ++d) {
        const int at_row = warp_row + i * 16 + lane / 4 + d / 2 * 8;
        const int at_token = warp_token + j * 8 + lane % 4 * 2 + d % 2;
        staged[at_token * kPaddedRows + at_row] = sums.total[i][j][d];
      }
    }
  }
  __syncthreads();
#pragma unroll 4
  for (int idx = thread; idx < kTokens * kRows / 2; idx += Warps::kThreads) {
    const int at_token = idx / (kRows / 2);
    const int at_row = idx % (kRows / 2) * 2;
    if (token + at_token >= in.num_tokens || row + at_row >= in.num_rows) continue;
    const float* const pair = staged + at_token * kPaddedRows + at_row;
    read_and_store<Epilogue>(p.epilogue, token + at_token, row + at_row, pair[0], pair[1]);
  }
}

}  // namespace phi3::cuda
