// Tiles of weights and activations in shared memory, and their way into the matrix instruction.
//
// A tile is rows of 128 bytes, whose eight chunks of 16 bytes are swapped by the row's number so
// that the same chunk of eight rows lies in all banks. Weights are the instruction's rows, tokens
// its columns.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cuda/gemm_plan.h"
#include "cuda/ptx.h"

namespace phi3::cuda {

struct GemmOperands {
  const unsigned char* weight;  // W [padded rows, padded k]: num_rows, padded_k
  const unsigned char* x;       // A [T, k]
  std::int64_t x_stride;        // in bytes
  std::int32_t num_rows, num_tokens, k;
  std::int32_t padded_k, span;
  bool x_is_aligned;  // its rows can be copied 16 bytes at a time
};

template <typename Epilogue>
struct GemmParams {
  GemmOperands operands;
  typename Epilogue::Params epilogue;
};

PHI3_DEVICE int chunk_offset(int row, int chunk) {
  return row * kTileRowBytes + ((chunk ^ (row & 7)) * 16);
}

// k of a stage, which doesn't go beyond its span: k .. min(k + stage_k, span_end).
struct StageWalk {
  int k, span_end;

  PHI3_DEVICE StageWalk(int begin, int span, int end)
      : k(begin), span_end(begin + span < end ? begin + span : end) {}

  PHI3_DEVICE bool ends_span(int stage) const { return k + stage >= span_end; }
  PHI3_DEVICE int num_steps(int stage) const {
    return (ends_span(stage) ? span_end - k : stage) / 16;
  }
  PHI3_DEVICE void advance(int stage, int span, int end) {
    if (!ends_span(stage)) {
      k += stage;
      return;
    }
    k = span_end;
    span_end = k + span < end ? k + span : end;
  }
};

// Starts copying kRows weight rows from `row` on, of a stage's k. What does not exist, or is of
// another span, becomes 0.
template <typename W, int kRows, int kThreads, bool kIsReadOnce>
PHI3_DEVICE void copy_weights(
    const GemmOperands& in, unsigned char* tile, int row, const StageWalk& walk, int thread) {
  constexpr int kRowsApart = kThreads / 8;
  constexpr int kBytes = sizeof(W);
  const int first_row = thread / 8;
  const int chunk = thread % 8;
  const int k = walk.k + chunk * (16 / kBytes);
  const std::int64_t row_bytes = std::int64_t{in.padded_k} * kBytes;
  const unsigned char* from = in.weight + (row + first_row) * row_bytes + std::int64_t{k} * kBytes;
#pragma unroll
  for (int i = 0; i < kRows / kRowsApart; ++i) {
    const int at = first_row + i * kRowsApart;
    // Padded rows come in panels of 16.
    const bool is_valid = k < walk.span_end && (kRows == kPanelRows || row + at < in.num_rows);
    unsigned char* const to = tile + chunk_offset(at, chunk);
    if constexpr (kIsReadOnce) {
      cp_async16_once(to, from, is_valid);
    } else {
      cp_async16(to, from, is_valid);
    }
    from += kRowsApart * row_bytes;
  }
}

// Eight numbers of a token, of which `left` exist, one by one.
PHI3_DEVICE void copy_unaligned(const unsigned char* x, int left, unsigned char* to) {
  const auto* const from = reinterpret_cast<const BFloat16*>(x);
  std::uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t low = 2 * i < left ? from[2 * i].bits : 0;
    const std::uint32_t high = 2 * i + 1 < left ? from[2 * i + 1].bits : 0;
    pairs[i] = low | high << 16;
  }
  *reinterpret_cast<uint4*>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// Starts copying kTokens tokens from `token` on, of a stage's k, as tiles of 64 k each. What does
// not exist, or is of another span, becomes 0.
template <int kStageK, int kTokens, int kThreads>
PHI3_DEVICE void copy_tokens(
    const GemmOperands& in, unsigned char* tile, int token, const StageWalk& walk, int thread) {
  constexpr int kChunks = kStageK / 8;
  constexpr int kTokensApart = kThreads / kChunks;
  const int first_token = thread / kChunks;
  const int chunk = thread % kChunks;
  const int k = walk.k + chunk * 8;
  const int left = (walk.span_end < in.k ? walk.span_end : in.k) - k;
  const unsigned char* from =
      in.x + (token + first_token) * in.x_stride + std::int64_t{k} * kActivationBytes;
  tile += chunk / 8 * (kTokens * kTileRowBytes);
  if (!in.x_is_aligned) {
#pragma unroll 1  // rare: worth no registers
    for (int at = first_token; at < kTokens; at += kTokensApart) {
      copy_unaligned(
          from, token + at < in.num_tokens ? left : 0, tile + chunk_offset(at, chunk % 8));
      from += kTokensApart * in.x_stride;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kTokens / kTokensApart; ++i) {
    const int at = first_token + i * kTokensApart;
    cp_async16(tile + chunk_offset(at, chunk % 8), from, left > 0 && token + at < in.num_tokens);
    from += kTokensApart * in.x_stride;
  }
}

// Weights of 16 rows from `row` on and of the stage's k16 step, as operand a.
template <typename W>
PHI3_DEVICE void load_weights(
    std::uint32_t (&a)[4], const unsigned char* tile, int row, int step, int lane);

template <>
PHI3_DEVICE void load_weights<BFloat16>(
    std::uint32_t (&a)[4], const unsigned char* tile, int row, int step, int lane) {
  ldmatrix_x4(a, tile + chunk_offset(row + lane % 16, 2 * step ^ lane / 16));
}

template <>
PHI3_DEVICE void load_weights<Float8>(
    std::uint32_t (&a)[4], const unsigned char* tile, int row, int step, int lane) {
  const auto pair_at = [&](int at_row, int k) {
    return widen_float8x2(*reinterpret_cast<const std::uint16_t*>(
        tile + chunk_offset(at_row, step) + k + lane % 4 * 2));
  };
  a[0] = pair_at(row + lane / 4, 0);
  a[1] = pair_at(row + lane / 4 + 8, 0);
  a[2] = pair_at(row + lane / 4, 8);
  a[3] = pair_at(row + lane / 4 + 8, 8);
}

// Eight tokens from `token` on, of kTokens, and the stage's k16 step, as operand b.
template <int kTokens>
PHI3_DEVICE void load_tokens(
    std::uint32_t (&b)[2], const unsigned char* tile, int token, int step, int lane) {
  ldmatrix_x2(b,
              tile + step / 4 * (kTokens * kTileRowBytes) +
                  chunk_offset(token + lane % 8, step % 4 * 2 ^ lane / 8 % 2));
}

// The same for sixteen tokens: b of the first eight, and of the others.
template <int kTokens>
PHI3_DEVICE void load_tokens(std::uint32_t (&b0)[2],
                             std::uint32_t (&b1)[2],
                             const unsigned char* tile,
                             int token,
                             int step,
                             int lane) {
  std::uint32_t both[4];
  ldmatrix_x4(both,
              tile + step / 4 * (kTokens * kTileRowBytes) +
                  chunk_offset(token + lane % 8 + lane / 16 * 8, step % 4 * 2 ^ lane / 8 % 2));
  b0[0] = both[0];
  b0[1] = both[1];
  b1[0] = both[2];
  b1[1] = both[3];
}

}  // namespace phi3::cuda
