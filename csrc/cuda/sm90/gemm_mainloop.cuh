// The sums of a tile in spans of k, over a mainloop of CUTLASS.
#pragma once

#include <cutlass/cutlass.h>

#include <cute/tensor.hpp>

#include "cuda/gemm_plan.h"

namespace phi3::cuda::sm90 {

// gemm_span(k) in tiles of 64 k, of num_k_tiles that hold k.
CUTLASS_HOST_DEVICE constexpr int span_tiles(int num_k_tiles) {
  return (num_k_tiles + kGemmSpans - 1) / kGemmSpans;
}

// As `Base`, a warp-specialised mainloop, but each span is summed from zero and the sums of spans
// are added in order: ((p0 + p1) + p2) + p3.
template <class Base>
struct SpanMainloop : Base {
  using typename Base::MainloopPipeline;
  using typename Base::Params;
  using typename Base::PipelineState;
  using typename Base::TensorStorage;

  template <class Accumulators>
  CUTLASS_DEVICE void mma(MainloopPipeline pipeline,
                          PipelineState state,
                          Accumulators& sums,
                          int num_k_tiles,
                          int thread_idx,
                          TensorStorage& shared,
                          const Params& params) {
    const int span = span_tiles(num_k_tiles);
    auto partial = cute::make_fragment_like(sums);
    CUTLASS_PRAGMA_NO_UNROLL
    for (int first = 0; first < num_k_tiles; first += span) {
      const int count = cute::min(span, num_k_tiles - first);
      Base::mma(pipeline, state, partial, count, thread_idx, shared, params);
      Base::mma_tail(pipeline, state, count);  // waits for the sums
      cute::warpgroup_fence_operand(partial);
      state.advance(count);
      CUTLASS_PRAGMA_UNROLL
      for (int i = 0; i < cute::size(sums); ++i) {  // a sum with zero would turn -0 into 0
        sums(i) = first == 0 ? partial(i) : sums(i) + partial(i);
      }
    }
  }

  // Nothing is left: `mma` has released every stage.
  CUTLASS_DEVICE void mma_tail(MainloopPipeline, PipelineState, int) {}
};

}  // namespace phi3::cuda::sm90
