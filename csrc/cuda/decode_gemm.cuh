// The GEMM of few tokens, which lives by how fast weights arrive: a block has a few weight rows and
// each of its four warps one span of k, with a ring of stages in flight to itself. Nobody waits for
// another warp until the sums of the spans are added.
#pragma once

#include <cstdint>

#include "cuda/gemm_tiles.cuh"

namespace phi3::cuda {

inline constexpr int kDecodeThreads = kGemmSpans * kWarpSize;

// Sums of a span, [token][row]; the padding keeps lanes that write different tokens in different
// banks.
template <int kRows, int kTokens>
struct SpanSums {
  float at[kTokens][kRows + 4];
};

// sums += weights · tokens of a k16 step of a stage.
template <typename W, int kRows, int kTokens>
PHI3_DEVICE void add_step(float (&sums)[kRows / 16][kTokens / 8][4],
                          const unsigned char* tile,
                          int step,
                          int lane) {
  const unsigned char* const tokens = tile + kRows * kTileRowBytes;
  std::uint32_t b[kTokens / 8][2];
  if constexpr (kTokens == 8) {
    load_tokens<kTokens>(b[0], tokens, 0, step, lane);
  } else {
    load_tokens<kTokens>(b[0], b[1], tokens, 0, step, lane);
  }
#pragma unroll
  for (int i = 0; i < kRows / 16; ++i) {
    std::uint32_t a[4];
    load_weights<W>(a, tile, i * 16, step, lane);
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) mma_m16n8k16(sums[i][j], a, b[j]);
  }
}

// The span of one warp: sums of kRows rows and kTokens tokens.
template <typename W, GemmTile kTile>
PHI3_DEVICE void sum_span(float (&sums)[kTile.rows / 16][kTile.tokens / 8][4],
                          const GemmOperands& in,
                          StageWalk walk,
                          unsigned char* ring,
                          int row,
                          int token,
                          int lane) {
  constexpr int kRows = kTile.rows;
  constexpr int kTokens = kTile.tokens;
  constexpr int kStageK = stage_k(sizeof(W));
  constexpr int kStageBytes = stage_bytes(kTile, sizeof(W));
  constexpr int kStages = num_stages(kTile, sizeof(W), kGemmSpans);
  const auto copy_stage = [&](int slot, const StageWalk& stage) {
    if (stage.k < stage.span_end) {
      unsigned char* const tile = ring + slot * kStageBytes;
      copy_weights<W, kRows, kWarpSize, true>(in, tile, row, stage, lane);
      copy_tokens<kStageK, kTokens, kWarpSize>(
          in, tile + kRows * kTileRowBytes, token, stage, lane);
    }
    cp_async_commit();
  };
  StageWalk ahead = walk;
  for (int slot = 0; slot < kStages - 1; ++slot) {
    copy_stage(slot, ahead);
    ahead.k += kStageK;
  }
  int slot = 0;
  for (; walk.k < walk.span_end; walk.k += kStageK, ahead.k += kStageK) {
    cp_async_wait<kStages - 2>();
    __syncwarp();
    copy_stage(slot == 0 ? kStages - 1 : slot - 1, ahead);
    const unsigned char* const tile = ring + slot * kStageBytes;
    const auto add = [&](int step) { add_step<W, kRows, kTokens>(sums, tile, step, lane); };
    if (walk.k + kStageK <= walk.span_end) {
#pragma unroll
      for (int step = 0; step < kStageK / 16; ++step) add(step);
    } else {
#pragma unroll 1
      for (int step = 0; step < walk.num_steps(kStageK); ++step) add(step);
    }
    slot = slot == kStages - 1 ? 0 : slot + 1;
  }
}

// kTileIdx: which of the kDecodeTiles.
template <typename W, int kTileIdx, typename Epilogue>
__global__ void __launch_bounds__(kDecodeThreads, 2) decode_gemm(GemmParams<Epilogue> p) {
  constexpr GemmTile kTile = kDecodeTiles[kTileIdx];
  constexpr int kRows = kTile.rows;
  constexpr int kTokens = kTile.tokens;
  constexpr int kRingBytes = ring_bytes(kTile, sizeof(W), kGemmSpans);
  using Sums = SpanSums<kRows, kTokens>;
  static_assert(sizeof(Sums) <= kRingBytes);
  const GemmOperands& in = p.operands;
  const int warp = threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  const int row = static_cast<int>(blockIdx.x) * kRows;
  const int token = static_cast<int>(blockIdx.y) * kTokens;
  float sums[kRows / 16][kTokens / 8][4] = {};
  const int begin = warp * in.span;
  if (begin < in.padded_k) {
    sum_span<W, kTile>(sums,
                       in,
                       StageWalk(begin, in.span, in.padded_k),
                       shared_memory() + warp * kRingBytes,
                       row,
                       token,
                       lane);
  }

  __syncthreads();  // the rings' memory is free
  auto* const spans = reinterpret_cast<Sums*>(shared_memory());
#pragma unroll
  for (int i = 0; i < kRows / 16; ++i) {
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
      for (int d = 0; d < 4; ++d) {
        spans[warp].at[j * 8 + lane % 4 * 2 + d % 2][i * 16 + lane / 4 + d / 2 * 8] = sums[i][j][d];
      }
    }
  }
  __syncthreads();
  for (int idx = threadIdx.x; idx < kTokens * kRows / 2; idx += kDecodeThreads) {
    const int at_token = idx / (kRows / 2);
    const int at_row = idx % (kRows / 2) * 2;
    if (token + at_token >= in.num_tokens || row + at_row >= in.num_rows) continue;
    float even = spans[0].at[at_token][at_row];
    float odd = spans[0].at[at_token][at_row + 1];
    for (int span = 1; span * in.span < in.padded_k; ++span) {
      even += spans[span].at[at_token][at_row];
      odd += spans[span].at[at_token][at_row + 1];
    }
    read_and_store<Epilogue>(p.epilogue, token + at_token, row + at_row, even, odd);
  }
}

}  // namespace phi3::cuda
