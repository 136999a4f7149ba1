#include <algorithm>
#include <cstddef>
#include <cstring>

#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "cpu/parallel.h"

namespace phi3::cpu {
namespace {

// out = the activation of 16 columns of a row each, from `column` on.
void activate(const Kernels& isa,
              const MlpParams& params,
              std::int64_t column,
              std::int64_t num_pairs,
              float* values,
              void* out) {
  const bool is_bf16 = params.dtype == DType::kBFloat16;
  for (std::int64_t pair = 0; params.gate_up_bias != nullptr && pair < num_pairs; ++pair) {
    const std::int64_t first = column + pair * kLanes;
    const std::int64_t count = std::min<std::int64_t>(kLanes, params.mlp_width - first);
    float* gate = values + pair * 2 * kLanes;
    add_bias(isa, params.dtype, params.gate_up_bias, first, gate, count);
    add_bias(
        isa, params.dtype, params.gate_up_bias, params.mlp_width + first, gate + kLanes, count);
  }
  if (params.is_gegelu) {
    const auto gegelu_mul = is_bf16 ? isa.gegelu_mul_bf16 : isa.gegelu_mul_f32;
    gegelu_mul(values, params.gegelu_limit, num_pairs, out);
  } else {
    (is_bf16 ? isa.silu_mul_bf16 : isa.silu_mul_f32)(values, num_pairs, out);
  }
}

// act of all rows. Panels alternate gate and up, so a group of panels holds whole pairs of 16
// columns.
void gate_up(const MlpParams& params) {
  static_assert(kTilePanels % 2 == 0);
  constexpr std::int64_t kGroupAct = kGroupColumns / 2;
  const Kernels& isa = kernels();
  const GemmBlock gemm(isa, params.gate_up);
  const std::int64_t num_groups = ceil_div(params.gate_up.num_panels, kTilePanels);
  const std::int64_t num_blocks = ceil_div(params.num_tokens, kBlockRows);
  const std::int64_t cost = params.gate_up.in_features * kGroupColumns *
                            std::min<std::int64_t>(params.num_tokens, kBlockRows);
  parallel_for(num_groups * num_blocks, tasks_worth_a_thread(cost), [&](std::int64_t task) {
    alignas(64) float values[kBlockRows * kGroupColumns];
    const std::int64_t group = task / num_blocks;
    const std::int64_t panel = group * kTilePanels;
    const std::int64_t num_panels =
        std::min<std::int64_t>(kTilePanels, params.gate_up.num_panels - panel);
    const std::int64_t begin = even_part(params.num_tokens, num_blocks, task % num_blocks);
    const std::int64_t end = even_part(params.num_tokens, num_blocks, task % num_blocks + 1);
    gemm({params.x.at(begin), params.x.stride},
         end - begin,
         panel,
         num_panels,
         values,
         kGroupColumns);
    const std::int64_t column = group * kGroupAct;
    const std::int64_t count = std::min(num_panels / 2 * kLanes, params.mlp_width - column);
    const auto num_bytes = static_cast<std::size_t>(count * dtype_size(params.dtype));
    for (std::int64_t row = begin; row < end; ++row) {
      alignas(64) std::byte act[kGroupAct * sizeof(float)];
      float* row_values = values + (row - begin) * kGroupColumns;
      activate(isa, params, column, num_panels / 2, row_values, act);
      std::memcpy(
          offset(params.act, params.dtype, row * params.mlp_width + column), act, num_bytes);
    }
  });
}

}  // namespace

void mlp(const MlpParams& params) {
  gate_up(params);
  Rows act{params.act, params.mlp_width * dtype_size(params.dtype)};
  if (!is_float(params.down.format)) {
    quantize({.dtype = params.dtype,
              .x = act,
              .out = params.quantized_act,
              .num_tokens = params.num_tokens,
              .in_features = params.mlp_width});
    act = {params.quantized_act, quantized_row_bytes(params.mlp_width)};
  }
  linear({.dtype = params.dtype,
          .x = act,
          .weight = params.down,
          .bias = params.down_bias,
          .scale = 1.0F,
          .out = params.h,
          .out_stride = params.h_stride,
          .out_is_f32 = true,
          .accumulate = true,
          .num_tokens = params.num_tokens,
          .out_features = params.hidden_size});
}

}  // namespace phi3::cpu
