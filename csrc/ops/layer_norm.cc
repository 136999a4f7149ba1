#include "ops/layer_norm.h"

#include "core/match.h"
#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"
#include "ops/packed.h"
#include "ops/scalars.h"

namespace phi3::ops {

void layer_norm(const TensorView& h,
                const TensorView& weight,
                const TensorView& bias,
                const TensorView& out,
                float eps) {
  Matcher matcher("layer_norm");
  const DType dtype = matcher.model_dtype("weight", weight);
  Dim tokens("T");
  Dim hidden("E");
  matcher.match_rows("h", h, DType::kFloat32, {&tokens, &hidden});
  matcher.match("weight", weight, dtype, {&hidden});
  matcher.match("bias", bias, dtype, {&hidden});
  const bool is_quantized = out.dtype == DType::kInt8;
  if (is_quantized) {
    match_quantized(matcher, "out", out, tokens, hidden);
  } else {
    matcher.match_out_rows("out", out, dtype, {&tokens, &hidden});
  }
  check_eps(matcher, eps);
  run_on(matcher.device(),
         LayerNormParams{.dtype = dtype,
                         .h = h.as<const float>(),
                         .h_stride = h.stride(0),
                         .weight = weight.data,
                         .bias = bias.data,
                         .out = out.data,
                         .out_stride = out.stride(0) * dtype_size(out.dtype),
                         .out_is_quantized = is_quantized,
                         .num_tokens = tokens.value(),
                         .hidden_size = hidden.value(),
                         .eps = eps},
         cpu::layer_norm,
         cuda::layer_norm);
}

}  // namespace phi3::ops
