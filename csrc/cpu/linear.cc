#include <algorithm>
#include <cstring>

#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "cpu/parallel.h"

namespace phi3::cpu {
namespace {

// Scales a finished row, adds the bias and stores it the way the op asks.
void store_row(const Kernels& isa,
               const LinearParams& params,
               std::int64_t row,
               std::int64_t column,
               float* values,
               std::int64_t num_columns) {
  if (params.scale != 1.0F) {
    isa.scale_to_f32(values, params.scale, values, ceil_div(num_columns, kLanes) * kLanes);
  }
  add_bias(isa, params.dtype, params.bias, column, values, num_columns);
  const std::int64_t at = row * params.out_stride + column;
  if (!params.out_is_f32) {
    isa.to_bf16(values, static_cast<BFloat16*>(params.out) + at, num_columns);
  } else if (params.accumulate) {
    isa.add_f32(static_cast<float*>(params.out) + at, values, num_columns);
  } else {
    std::memcpy(static_cast<float*>(params.out) + at,
                values,
                static_cast<std::size_t>(num_columns) * sizeof(float));
  }
}

}  // namespace

void linear(const LinearParams& params) {
  const Kernels& isa = kernels();
  const GemmBlock gemm(isa, params.weight);
  const std::int64_t num_groups = ceil_div(params.weight.num_panels, kTilePanels);
  const std::int64_t num_blocks = ceil_div(params.num_tokens, kBlockRows);
  const std::int64_t cost = params.weight.in_features * kGroupColumns *
                            std::min<std::int64_t>(params.num_tokens, kBlockRows);
  // Row blocks are the inner index: a group's panels are read from memory once and then from cache.
  parallel_for(num_groups * num_blocks, tasks_worth_a_thread(cost), [&](std::int64_t task) {
    alignas(64) float values[kBlockRows * kGroupColumns];
    const std::int64_t panel = task / num_blocks * kTilePanels;
    const std::int64_t num_panels =
        std::min<std::int64_t>(kTilePanels, params.weight.num_panels - panel);
    const std::int64_t begin = even_part(params.num_tokens, num_blocks, task % num_blocks);
    const std::int64_t end = even_part(params.num_tokens, num_blocks, task % num_blocks + 1);
    gemm({params.x.at(begin), params.x.stride},
         end - begin,
         panel,
         num_panels,
         values,
         kGroupColumns);
    const std::int64_t column = panel * kLanes;
    const std::int64_t num_columns = std::min(num_panels * kLanes, params.out_features - column);
    for (std::int64_t row = begin; row < end; ++row) {
      store_row(isa, params, row, column, values + (row - begin) * kGroupColumns, num_columns);
    }
  });
}

}  // namespace phi3::cpu
