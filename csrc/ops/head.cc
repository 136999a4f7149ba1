#include "ops/head.h"

#include "core/match.h"
#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"
#include "ops/scalars.h"

namespace phi3::ops {
namespace {

struct HeadArguments {
  const TensorView& h;
  const TensorView& rows;
  const TensorView& norm_weight;
  std::optional<TensorView> norm_bias;
  const PackedView& weight;
  std::optional<TensorView> bias;
  const TensorView& normed;
  const TensorView& out;
  const char* out_name;
  Dim classes;
  float eps;
  float scale;
};

void head(const char* op, HeadArguments args) {
  Matcher matcher(op);
  const DType dtype = matcher.model_dtype("norm_weight", args.norm_weight);
  Dim tokens("T");
  Dim hidden("E");
  Dim rows("n");
  matcher.match_rows("h", args.h, DType::kFloat32, {&tokens, &hidden});
  matcher.match("rows", args.rows, DType::kInt32, {&rows});
  matcher.match("norm_weight", args.norm_weight, dtype, {&hidden});
  if (args.norm_bias) matcher.match("norm_bias", *args.norm_bias, dtype, {&hidden});
  if (!is_integer(args.weight.format)) {
    matcher.match("normed", args.normed, dtype, {&rows, &hidden});
  } else {
    match_quantized(matcher, "normed", args.normed, rows, hidden);
  }
  matcher.match(args.out_name, args.out, DType::kFloat32, {&rows, &args.classes});
  const PackedWeight packed =
      match_packed(matcher, "weight", args.weight, dtype, args.classes, hidden);
  if (args.bias) matcher.match("bias", *args.bias, dtype, {&args.classes});
  check_eps(matcher, args.eps);
  check_scale(matcher, args.scale);
  run_on(matcher.device(),
         HeadParams{.dtype = dtype,
                    .h = args.h.as<const float>(),
                    .h_stride = args.h.stride(0),
                    .rows = args.rows.as<const std::int32_t>(),
                    .norm_weight = args.norm_weight.data,
                    .norm_bias = args.norm_bias ? args.norm_bias->data : nullptr,
                    .weight = packed,
                    .bias = args.bias ? args.bias->data : nullptr,
                    .scale = args.scale,
                    .normed = args.normed.data,
                    .out = args.out.as<float>(),
                    .num_tokens = tokens.value(),
                    .num_rows = rows.value(),
                    .hidden_size = hidden.value(),
                    .out_features = args.classes.value(),
                    .eps = args.eps,
                    .op = op},
         cpu::head,
         cuda::head);
}

}  // namespace

void lm_head(const TensorView& h,
             const TensorView& rows,
             const TensorView& norm_weight,
             const PackedView& weight,
             const TensorView& normed,
             const TensorView& logits,
             float eps,
             const std::optional<TensorView>& norm_bias,
             const std::optional<TensorView>& bias,
             float scale) {
  head("lm_head",
       {.h = h,
        .rows = rows,
        .norm_weight = norm_weight,
        .norm_bias = norm_bias,
        .weight = weight,
        .bias = bias,
        .normed = normed,
        .out = logits,
        .out_name = "logits",
        .classes = Dim("V"),
        .eps = eps,
        .scale = scale});
}

void classify_head(const TensorView& h,
                   const TensorView& rows,
                   const TensorView& norm_weight,
                   const PackedView& weight,
                   const std::optional<TensorView>& bias,
                   const TensorView& normed,
                   const TensorView& scores,
                   float eps,
                   const std::optional<TensorView>& norm_bias) {
  head("classify_head",
       {.h = h,
        .rows = rows,
        .norm_weight = norm_weight,
        .norm_bias = norm_bias,
        .weight = weight,
        .bias = bias,
        .normed = normed,
        .out = scores,
        .out_name = "scores",
        .classes = Dim("C"),
        .eps = eps,
        .scale = 1.0F});
}

}  // namespace phi3::ops
