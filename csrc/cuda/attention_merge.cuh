// Spans into rows. Every kernel merges a row's spans in order, each into the total of those before
// it; the first, into nothing, comes out as it is, to the bit.
#pragma once

#include <cstdint>

#include "core/params.h"
#include "cuda/attention_tile.cuh"

namespace phi3::cuda {

// Max and sum of a row's softmax over the spans so far.
struct alignas(8) RowTotal {
  float max;
  float sum;
};

// What the outputs of the total so far and of the next span are multiplied with.
struct MergeFactors {
  float total;
  float span;

  PHI3_DEVICE float merged(float total_out, float span_out) const {
    return fmaf(span_out, span, total_out * total);
  }
};

PHI3_DEVICE MergeFactors merge(RowTotal& total, RowTotal span) {
  const float max = fmaxf(total.max, span.max);
  const float base = exponent_base(max);
  const MergeFactors factors{exp2_approx(total.max - base), exp2_approx(span.max - base)};
  total = {max, factors.merged(total.sum, span.sum)};
  return factors;
}

// Of sums that are finished.
template <int kHeadDim>
PHI3_DEVICE void merge(SoftmaxState<kHeadDim>& total, const SoftmaxState<kHeadDim>& span) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    RowTotal row{total.max[half], total.sum[half]};
    const MergeFactors factors = merge(row, {span.max[half], span.sum[half]});
    total.max[half] = row.max;
    total.sum[half] = row.sum;
#pragma unroll
    for (int group = 0; group < kHeadDim / 8; ++group) {
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        total.out[group][i] = factors.merged(total.out[group][i], span.out[group][i]);
      }
    }
  }
}

// An output: NaN where no key was seen. The sign of a zero may depend on tiles that change nothing
// else, and is dropped.
PHI3_DEVICE float finished(float out, float inverse_sum) { return out * inverse_sum + 0.0F; }

PHI3_DEVICE void store_pair(BFloat16* out, std::uint32_t pair) {
  if (reinterpret_cast<std::uintptr_t>(out) % sizeof(pair) == 0) {
    *reinterpret_cast<std::uint32_t*>(out) = pair;
  } else {
    out[0] = {static_cast<std::uint16_t>(pair)};
    out[1] = {static_cast<std::uint16_t>(pair >> 16)};
  }
}

// Stores the part of row g + 8 · half that this thread holds, at `out` (A [D]).
template <int kHeadDim>
PHI3_DEVICE void store_row(const SoftmaxState<kHeadDim>& state,
                           int half,
                           int head_dim,
                           BFloat16* out) {
  const float inverse_sum = 1.0F / state.sum[half];
#pragma unroll
  for (int group = 0; group < kHeadDim / 8; ++group) {
    if (group * 8 >= head_dim) continue;
    store_pair(out + group * 8 + lane_index() % 4 * 2,
               pack_bf16x2(finished(state.out[group][2 * half], inverse_sum),
                           finished(state.out[group][2 * half + 1], inverse_sum)));
  }
}

// Spans of rows that several blocks work on, in the workspace. A row of num_spans spans has as many
// totals and outputs [D] in a row.
struct Partials {
  RowTotal* totals;
  float* outs;
  std::int64_t num_spans;  // of a row at most
  int num_heads, head_dim;

  PHI3_DEVICE std::int64_t place(std::int64_t slot, int head, int span) const {
    return (slot * num_heads + head) * num_spans + span;
  }
};

// Stores the part of row g + 8 · half that this thread holds.
template <int kHeadDim>
PHI3_DEVICE void store_partial(const SoftmaxState<kHeadDim>& state,
                               int half,
                               const Partials& partials,
                               std::int64_t place) {
  const int column = lane_index() % 4 * 2;
  if (column == 0) partials.totals[place] = {state.max[half], state.sum[half]};
  float* out = partials.outs + place * partials.head_dim;
#pragma unroll
  for (int group = 0; group < kHeadDim / 8; ++group) {
    if (group * 8 >= partials.head_dim) continue;
    *reinterpret_cast<float2*>(out + group * 8 + column) =
        make_float2(state.out[group][2 * half], state.out[group][2 * half + 1]);
  }
}

// A warp merges the spans of a row, of which the first is at this place, into `out` (A [D]).
template <int kHeadDim>
PHI3_DEVICE void merge_partials(const Partials& partials,
                                std::int64_t first,
                                int num_spans,
                                BFloat16* out) {
  constexpr int kAtOnce = 8;  // loads on their way, of which a merge alone would have one
  constexpr int kDims = kHeadDim / kWarpSize;
  const int lane = lane_index();
  RowTotal total{negative_infinity(), 0.0F};
  float sums[kDims] = {};
  for (int begin = 0; begin < num_spans; begin += kAtOnce) {
    RowTotal spans[kAtOnce];
    float values[kAtOnce][kDims];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const std::int64_t place = first + min(begin + i, num_spans - 1);
      spans[i] = partials.totals[place];
#pragma unroll
      for (int j = 0; j < kDims; ++j) {
        const int dim = j * kWarpSize + lane;
        values[i][j] =
            dim < partials.head_dim ? partials.outs[place * partials.head_dim + dim] : 0.0F;
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (begin + i >= num_spans) break;
      const MergeFactors factors = merge(total, spans[i]);
#pragma unroll
      for (int j = 0; j < kDims; ++j) sums[j] = factors.merged(sums[j], values[i][j]);
    }
  }
  const float inverse_sum = 1.0F / total.sum;
#pragma unroll
  for (int j = 0; j < kDims; ++j) {
    const int dim = j * kWarpSize + lane;
    if (dim >= partials.head_dim) continue;
    const std::uint32_t pair = pack_bf16x2(finished(sums[j], inverse_sum), 0.0F);
    out[dim] = {static_cast<std::uint16_t>(pair)};
  }
}

}  // namespace phi3::cuda
