// lm_head and classify_head: final norm of the chosen rows, then their scores.
#include "core/check.h"
#include "cpu/cpu.h"
#include "cpu/norm_kernels.h"
#include "cpu/parallel.h"

namespace phi3::cpu {

void head(const HeadParams& params) {
  for (std::int64_t i = 0; i < params.num_rows; ++i) {
    PHI3_CHECK(params.rows[i] >= 0 && params.rows[i] < params.num_tokens,
               params.op,
               ": rows[",
               i,
               "] is ",
               params.rows[i],
               ", expected 0..",
               params.num_tokens - 1);
  }
  const bool is_quantized = !is_float(params.weight.format);
  const auto rms_norm = rms_norm_kernel(kernels(), params.dtype, is_quantized);
  const auto layer_norm = layer_norm_kernel(kernels(), params.dtype, is_quantized);
  const std::int64_t stride = is_quantized ? quantized_row_bytes(params.hidden_size)
                                           : params.hidden_size * dtype_size(params.dtype);
  parallel_for(params.num_rows, tasks_worth_a_thread(params.hidden_size), [&](std::int64_t i) {
    const float* h = params.h + params.rows[i] * params.h_stride;
    void* normed = static_cast<std::byte*>(params.normed) + i * stride;
    if (params.norm_bias == nullptr) {
      rms_norm(h, params.norm_weight, params.eps, normed, params.hidden_size);
    } else {
      layer_norm(h, params.norm_weight, params.norm_bias, params.eps, normed, params.hidden_size);
    }
  });
  linear({.dtype = params.dtype,
          .x = {params.normed, stride},
          .weight = params.weight,
          .bias = params.bias,
          .scale = params.scale,
          .out = params.out,
          .out_stride = params.out_features,
          .out_is_f32 = true,
          .accumulate = false,
          .num_tokens = params.num_rows,
          .out_features = params.out_features});
}

}  // namespace phi3::cpu
