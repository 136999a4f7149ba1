#include "ops/linear.h"

#include "core/match.h"
#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"

namespace phi3::ops {

void linear(const TensorView& x,
            const PackedView& weight,
            const TensorView& out,
            const std::optional<TensorView>& bias,
            bool accumulate) {
  Matcher matcher("linear");
  const DType dtype = bias ? activation_dtype(matcher, "x", x, weight, "bias", *bias)
                           : activation_dtype(matcher, "x", x, weight, "out", out);
  Dim tokens("T");
  Dim k("k");
  Dim n("n");
  const Rows rows = match_activations(matcher, "x", x, weight, dtype, tokens, k);
  const bool out_is_f32 = out.dtype == DType::kFloat32;
  matcher.check(!accumulate || out_is_f32,
                std::source_location::current(),
                "out is ",
                dtype_name(out.dtype),
                ", expected float32 with accumulate");
  matcher.match_out_rows("out", out, out_is_f32 ? DType::kFloat32 : dtype, {&tokens, &n});
  const PackedWeight packed = match_packed(matcher, "weight", weight, dtype, n, k);
  if (bias) matcher.match("bias", *bias, dtype, {&n});
  run_on(matcher.device(),
         LinearParams{.dtype = dtype,
                      .x = rows,
                      .weight = packed,
                      .bias = bias ? bias->data : nullptr,
                      .scale = 1.0F,
                      .out = out.data,
                      .out_stride = out.stride(0),
                      .out_is_f32 = out_is_f32,
                      .accumulate = accumulate,
                      .num_tokens = tokens.value(),
                      .out_features = n.value()},
         cpu::linear,
         cuda::linear);
}

}  // namespace phi3::ops
