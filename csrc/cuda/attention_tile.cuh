// The arithmetic of attention over one tile of 64 keys. A warp has 16 rows, in the layout that the
// sums of mma.sync and of a WGMMA's warps have: thread `lane` holds of rows g and g + 8
// (g = lane / 4) in every 8 columns 2c and 2c + 1 (c = lane % 4): [0], [1] of row g, [2], [3] of
// row g + 8. Columns are keys for scores and dims for outputs.
//
// Every kernel of attention is made of these, so that none of them can change the bits of a row.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cuda/attention_view.cuh"
#include "cuda/ptx.h"

namespace phi3::cuda {

PHI3_DEVICE float negative_infinity() { return __uint_as_float(0xff800000U); }

// Scores are in units of log2. A row that has seen nothing has max -inf, and all else is 0.
template <int kHeadDim>
struct SoftmaxState {
  float max[2];
  float sum[2];  // over this thread's columns until `finish_sums`
  float out[kHeadDim / 8][4];

  PHI3_DEVICE void clear() {
    for (int half = 0; half < 2; ++half) {
      max[half] = negative_infinity();
      sum[half] = 0.0F;
    }
#pragma unroll
    for (auto& group : out) {
      for (float& value : group) value = 0.0F;
    }
  }
};

// What weights are relative to: any finite number where no key was seen yet, as all of them are 0.
PHI3_DEVICE float exponent_base(float max) { return max == negative_infinity() ? 0.0F : max; }

using TileScores = float[kTileKeys / 8][4];
using TileWeights = std::uint32_t[kTileKeys / 16][4];  // bfloat16, as an A operand of k16 steps

PHI3_DEVICE void scale_scores(TileScores& scores, float scale) {
#pragma unroll
  for (auto& group : scores) {
    for (float& score : group) score *= scale;
  }
}

// What rows g and g + 8 see of a tile of keys.
struct TileView {
  int first_key;
  RowView rows[2];
  unsigned pages[2];

  PHI3_DEVICE TileView(const BlockPattern& pattern, const RowView (&views)[2], int tile)
      : first_key(tile * kTileKeys) {
    for (int half = 0; half < 2; ++half) {
      rows[half] = views[half];
      pages[half] = seen_pages(pattern, views[half], tile);
    }
  }

  // For key `idx` of the tile.
  PHI3_DEVICE bool sees(int half, int idx) const {
    const int key = first_key + idx;
    return key >= rows[half].begin && key < rows[half].end &&
           (pages[half] >> (idx / static_cast<int>(kPageSize)) & 1U) != 0;
  }
};

PHI3_DEVICE void hide_unseen(TileScores& scores, const TileView& view) {
  const int column = lane_index() % 4 * 2;
#pragma unroll
  for (int group = 0; group < kTileKeys / 8; ++group) {
    for (int i = 0; i < 4; ++i) {
      if (!view.sees(i / 2, group * 8 + column + i % 2)) scores[group][i] = negative_infinity();
    }
  }
}

// Online softmax (Milakov and Gimelshein 2018): scores into weights relative to the largest score
// so far, to which the sums and outputs so far are brought. A tile of which a row sees nothing
// changes nothing of the row, to the bit.
template <int kHeadDim>
PHI3_DEVICE void soften(const TileScores& scores,
                        SoftmaxState<kHeadDim>& state,
                        TileWeights& weights) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max = state.max[half];
#pragma unroll
    for (const auto& group : scores) max = fmaxf(max, fmaxf(group[2 * half], group[2 * half + 1]));
    max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 1));
    max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 2));
    const float base = exponent_base(max);
    const float keep = exp2_approx(state.max[half] - base);
    float sum = 0.0F;
#pragma unroll
    for (int group = 0; group < kTileKeys / 8; ++group) {
      const float even = exp2_approx(scores[group][2 * half] - base);
      const float odd = exp2_approx(scores[group][2 * half + 1] - base);
      sum += even;
      sum += odd;
      weights[group / 2][group % 2 * 2 + half] = pack_bf16x2(even, odd);
    }
    state.max[half] = max;
    state.sum[half] = fmaf(state.sum[half], keep, sum);
#pragma unroll
    for (auto& group : state.out) {
      group[2 * half] *= keep;
      group[2 * half + 1] *= keep;
    }
  }
}

// At the end of a span.
template <int kHeadDim>
PHI3_DEVICE void finish_sums(SoftmaxState<kHeadDim>& state) {
  for (float& sum : state.sum) {
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
  }
}

PHI3_DEVICE bool is_finite(BFloat16 value) { return (value.bits & 0x7f80U) != 0x7f80U; }

// Whether one of two bfloat16 numbers is infinite or NaN.
PHI3_DEVICE bool has_special(std::uint32_t pair) {
  return (((pair & 0x7f807f80U) + 0x00800080U) & 0x80008000U) != 0;
}

// out += weights · V, where V has numbers that are not finite and that not all rows see: 0 · NaN
// would spoil the others. `value(key, dim)` is an element of the tile.
template <int kHeadDim, typename Value>
PHI3_DEVICE void weigh_specials(const TileWeights& weights,
                                const TileView& view,
                                Value value,
                                SoftmaxState<kHeadDim>& state) {
  const int lane = lane_index();
  const auto finite_pair = [&](int key, int dim) {
    const BFloat16 low = value(key, dim);
    const BFloat16 high = value(key + 1, dim);
    return (is_finite(low) ? low.bits : 0U) | (is_finite(high) ? high.bits : 0U) << 16;
  };
#pragma unroll
  for (int step = 0; step < kTileKeys / 16; ++step) {
#pragma unroll
    for (int group = 0; group < kHeadDim / 8; ++group) {
      float (&out)[4] = state.out[group];
      const int first = step * 16 + lane % 4 * 2;
      const std::uint32_t finite[2] = {finite_pair(first, group * 8 + lane / 4),
                                       finite_pair(first + 8, group * 8 + lane / 4)};
      mma_m16n8k16(out, weights[step], finite);
#pragma unroll 1
      for (int k = 0; k < 16; ++k) {
        const int key = step * 16 + k;
        const int owner = lane / 4 * 4 + k % 8 / 2;
        const BFloat16 even = value(key, group * 8 + lane % 4 * 2);
        const BFloat16 odd = value(key, group * 8 + lane % 4 * 2 + 1);
        for (int half = 0; half < 2; ++half) {
          const std::uint32_t pair =
              __shfl_sync(kAllLanes, k < 8 ? weights[step][half] : weights[step][2 + half], owner);
          const float weight = __uint_as_float(k % 2 == 0 ? pair << 16 : pair & 0xffff0000U);
          if (!view.sees(half, key)) continue;
          if (!is_finite(even)) out[2 * half] = fmaf(weight, to_float(even), out[2 * half]);
          if (!is_finite(odd)) out[2 * half + 1] = fmaf(weight, to_float(odd), out[2 * half + 1]);
        }
      }
    }
  }
}

}  // namespace phi3::cuda
