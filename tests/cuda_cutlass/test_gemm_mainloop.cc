// The spans of a mainloop over one of the host that says which tiles it was given.
#include <cuda_runtime.h>

#include <cmath>
#include <cute/arch/mma_sm90_gmma.hpp>
#include <cute/tensor.hpp>
#include <vector>

#include "check.h"
#include "cuda/sm90/gemm_mainloop.cuh"

namespace phi3::cuda::sm90 {
namespace {

// Tile k adds to sum i: value(k) · (i + 1).
float value(int k) { return std::ldexp(static_cast<float>((k * 37 + 11) % 101) - 50.0F, k % 23); }

struct HostMainloop {
  struct PipelineState {
    int tile;
    void advance(int count) { tile += count; }
  };
  struct MainloopPipeline {
    std::vector<int>* taken;
    int* num_released;
  };
  struct Params {};
  struct TensorStorage {};

  template <class Sums>
  void mma(MainloopPipeline pipeline,
           PipelineState state,
           Sums& sums,
           int count,
           int,
           TensorStorage&,
           const Params&) {
    for (int i = 0; i < cute::size(sums); ++i) sums(i) = 0;
    for (int k = state.tile; k < state.tile + count; ++k) {
      pipeline.taken->push_back(k);
      for (int i = 0; i < cute::size(sums); ++i) sums(i) += value(k) * static_cast<float>(i + 1);
    }
  }
  void mma_tail(MainloopPipeline pipeline, PipelineState, int count) {
    *pipeline.num_released += count;
  }
};

TEST(each_span_is_summed_from_zero_and_added_in_order) {
  constexpr int kFirst = 7;  // where the pipeline stands
  for (int num_tiles = 1; num_tiles < 300; ++num_tiles) {
    std::vector<int> taken;
    int num_released = 0;
    HostMainloop::TensorStorage shared;
    auto sums = cute::make_tensor<float>(cute::Shape<cute::_2, cute::_3>{});
    SpanMainloop<HostMainloop>{}.mma(
        {&taken, &num_released}, {kFirst}, sums, num_tiles, 0, shared, {});

    EXPECT_EQ(num_released, num_tiles);
    EXPECT_EQ(static_cast<int>(taken.size()), num_tiles);
    for (int k = 0; k < num_tiles; ++k) EXPECT_EQ(taken[static_cast<std::size_t>(k)], kFirst + k);
    const int span = static_cast<int>(gemm_span(64 * num_tiles) / 64);
    for (int i = 0; i < cute::size(sums); ++i) {
      float total = 0;
      for (int first = 0; first < num_tiles; first += span) {
        float partial = 0;
        for (int k = first; k < std::min(num_tiles, first + span); ++k) {
          partial += value(kFirst + k) * static_cast<float>(i + 1);
        }
        total = first == 0 ? partial : total + partial;
      }
      EXPECT_EQ(sums(i), total);
    }
  }
}

}  // namespace
}  // namespace phi3::cuda::sm90
