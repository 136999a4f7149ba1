#include "ops/head.h"

#include <cmath>

#include "core/match.h"
#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"
#include "ops/packed.h"

namespace phi3::ops {
namespace {

struct HeadArguments {
  const TensorView& h;
  const TensorView& rows;
  const TensorView& norm_weight;
  const TensorView& weight;
  std::optional<TensorView> bias;
  const TensorView& normed;
  const TensorView& out;
  const char* out_name;
  Dim classes;
  float eps;
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
  matcher.match("normed", args.normed, dtype, {&rows, &hidden});
  matcher.match(args.out_name, args.out, DType::kFloat32, {&rows, &args.classes});
  const PackedWeight packed =
      match_packed(matcher, "weight", args.weight, dtype, args.classes, hidden);
  if (args.bias) matcher.match("bias", *args.bias, dtype, {&args.classes});
  matcher.check(std::isfinite(args.eps) && args.eps >= 0,
                std::source_location::current(),
                "eps is ",
                args.eps,
                ", expected a finite number of at least 0");
  run_on(matcher.device(),
         HeadParams{.dtype = dtype,
                    .h = args.h.as<const float>(),
                    .h_stride = args.h.stride(0),
                    .rows = args.rows.as<const std::int32_t>(),
                    .norm_weight = args.norm_weight.data,
                    .weight = packed,
                    .bias = args.bias ? args.bias->data : nullptr,
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
             const TensorView& weight,
             const TensorView& normed,
             const TensorView& logits,
             float eps) {
  head("lm_head",
       {.h = h,
        .rows = rows,
        .norm_weight = norm_weight,
        .weight = weight,
        .bias = std::nullopt,
        .normed = normed,
        .out = logits,
        .out_name = "logits",
        .classes = Dim("V"),
        .eps = eps});
}

void classify_head(const TensorView& h,
                   const TensorView& rows,
                   const TensorView& norm_weight,
                   const TensorView& weight,
                   const std::optional<TensorView>& bias,
                   const TensorView& normed,
                   const TensorView& scores,
                   float eps) {
  head("classify_head",
       {.h = h,
        .rows = rows,
        .norm_weight = norm_weight,
        .weight = weight,
        .bias = bias,
        .normed = normed,
        .out = scores,
        .out_name = "scores",
        .classes = Dim("C"),
        .eps = eps});
}

}  // namespace phi3::ops
