// The GEMM of float32 activations, for models of that dtype: exact products and a rounding per sum,
// not speed.
#pragma once

#include <cstdint>

#include "cuda/gemm_tiles.cuh"

namespace phi3::cuda {

inline constexpr int kFloat32Threads = 256;
inline constexpr int kFloat32TileK = 32;

// [row or token][k]; the padding keeps lanes on different rows in different banks.
using Float32Tile = float[kFloat32Tile.rows][kFloat32TileK + 1];
inline constexpr int kFloat32SharedBytes = 2 * sizeof(Float32Tile);

// Every thread has two neighbouring rows and two tokens of the block's tile.
template <typename W, typename Epilogue>
__global__ void __launch_bounds__(kFloat32Threads, 2) gemm_f32(GemmParams<Epilogue> p) {
  constexpr int kRows = kFloat32Tile.rows;
  constexpr int kTokens = kFloat32Tile.tokens;
  constexpr int kTileK = kFloat32TileK;
  static_assert(kRows == kTokens && kRows / 2 * (kTokens / 2) == kFloat32Threads);
  const GemmOperands& in = p.operands;
  auto& weights = reinterpret_cast<Float32Tile*>(shared_memory())[0];
  auto& tokens = reinterpret_cast<Float32Tile*>(shared_memory())[1];
  const std::int64_t row = std::int64_t{blockIdx.x} * kRows;
  const std::int64_t token = std::int64_t{blockIdx.y} * kTokens;
  const int pair = threadIdx.x % (kRows / 2);
  const int first_token = threadIdx.x / (kRows / 2);
  float total[2][2] = {};
  for (int begin = 0; begin < in.k; begin += in.span) {
    const int end = begin + in.span < in.k ? begin + in.span : in.k;
    float sums[2][2] = {};
    for (int k = begin; k < end; k += kTileK) {
      __syncthreads();
      for (int idx = threadIdx.x; idx < kRows * kTileK; idx += kFloat32Threads) {
        const int at = idx / kTileK;
        const int at_k = k + idx % kTileK;
        const bool is_in = at_k < end;
        const auto* const w = reinterpret_cast<const W*>(in.weight);
        const auto* const x = reinterpret_cast<const float*>(in.x + (token + at) * in.x_stride);
        weights[at][idx % kTileK] =
            is_in && row + at < in.num_rows ? to_float(w[(row + at) * in.padded_k + at_k]) : 0;
        tokens[at][idx % kTileK] = is_in && token + at < in.num_tokens ? x[at_k] : 0;
      }
      __syncthreads();
      const int count = end - k < kTileK ? end - k : kTileK;
      for (int i = 0; i < count; ++i) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
#pragma unroll
          for (int t = 0; t < 2; ++t) {
            sums[r][t] = fmaf(
                weights[2 * pair + r][i], tokens[first_token + t * (kTokens / 2)][i], sums[r][t]);
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int t = 0; t < 2; ++t) total[r][t] += sums[r][t];
    }
  }
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    const std::int64_t at_token = token + first_token + t * (kTokens / 2);
    const std::int64_t at_row = row + 2 * pair;
    if (at_token >= in.num_tokens || at_row >= in.num_rows) continue;
    read_and_store<Epilogue>(p.epilogue, at_token, at_row, total[0][t], total[1][t]);
  }
}

}  // namespace phi3::cuda
