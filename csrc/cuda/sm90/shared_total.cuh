// The totals over a row's spans so far. They are needed once in a span, and lie in shared memory so
// that the span's own outputs have room in registers.
#pragma once

#include "cuda/attention_merge.cuh"
#include "cuda/attention_tile.cuh"
#include "cuda/ptx.h"

namespace phi3::cuda::sm90 {

template <int kHeadDim, int kThreads>
class SharedTotal {
 public:
  static constexpr int kGroups = kHeadDim / 8;
  using Outs = float4[kGroups][kThreads];

  // `outs` is of kThreads threads, of which this is one.
  PHI3_DEVICE SharedTotal(Outs& outs, int thread) : outs_(outs), thread_(thread) {
    for (auto& row : rows_) row = {negative_infinity(), 0.0F};
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      outs_[group][thread_] = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
    }
  }

  // Adds a span, which becomes the total.
  PHI3_DEVICE void merge(SoftmaxState<kHeadDim>& span) {
    MergeFactors factors[2];
    for (int half = 0; half < 2; ++half) {
      factors[half] = cuda::merge(rows_[half], {span.max[half], span.sum[half]});
      span.max[half] = rows_[half].max;
      span.sum[half] = rows_[half].sum;
    }
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      float (&out)[4] = span.out[group];
      const float4 before = outs_[group][thread_];
      out[0] = factors[0].merged(before.x, out[0]);
      out[1] = factors[0].merged(before.y, out[1]);
      out[2] = factors[1].merged(before.z, out[2]);
      out[3] = factors[1].merged(before.w, out[3]);
      outs_[group][thread_] = make_float4(out[0], out[1], out[2], out[3]);
    }
  }

 private:
  Outs& outs_;
  int thread_;
  RowTotal rows_[2];
};

}  // namespace phi3::cuda::sm90
