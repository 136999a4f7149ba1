#include "ops/pack.h"

#include "core/match.h"
#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"

namespace phi3::ops {
namespace {

using Where = std::source_location;

// Rows of the panels that hold `rows` rows.
Dim packed_rows(const Matcher& matcher, const Dim& rows, bool is_gate_up, Where where) {
  if (!is_gate_up) return rows;
  matcher.check(rows.value() % 2 == 0,
                where,
                "weight dim 0 (2F) is ",
                rows.value(),
                ", expected an even number");
  return Dim("packed rows", 2 * round_up(rows.value() / 2, kPanelRows));
}

void pack(Matcher& matcher,
          const TensorView& weight,
          const PackedView& out,
          const std::optional<TensorView>& row_errors,
          bool is_gate_up,
          Where where) {
  const DType dtype = matcher.model_dtype("weight", weight);
  Dim rows(is_gate_up ? "2F" : "n");
  Dim k(is_gate_up ? "E" : "k");
  matcher.match_rows("weight", weight, dtype, {&rows, &k});
  matcher.check(rows.value() > 0, where, "weight has no rows");
  match_packed(matcher, "out", out, dtype, packed_rows(matcher, rows, is_gate_up, where), k);
  if (row_errors) {
    matcher.check(
        !is_float(out.format), where, "row_errors is given with format ", format_name(out.format));
    matcher.match("row_errors", *row_errors, DType::kFloat32, {&rows});
  }
  run_on(matcher.device(),
         PackParams{.dtype = dtype,
                    .weight = weight.data,
                    .weight_stride = weight.stride(0),
                    .out = out.view.data,
                    .format = out.format,
                    .row_errors = row_errors ? row_errors->as<float>() : nullptr,
                    .num_rows = rows.value(),
                    .in_features = k.value(),
                    .is_gate_up = is_gate_up},
         cpu::pack,
         cuda::pack);
}

void unpack(Matcher& matcher,
            const PackedView& packed,
            const TensorView& out,
            bool is_gate_up,
            Where where) {
  Dim rows(is_gate_up ? "2F" : "n");
  Dim k(is_gate_up ? "E" : "k");
  matcher.match("out", out, DType::kFloat32, {&rows, &k});
  matcher.check(rows.value() > 0, where, "out has no rows");
  const DType dtype = packed.format == WeightFormat::kBFloat16 ? DType::kBFloat16 : DType::kFloat32;
  const PackedWeight weight = match_packed(
      matcher, "packed", packed, dtype, packed_rows(matcher, rows, is_gate_up, where), k);
  run_on(matcher.device(),
         UnpackParams{.weight = weight,
                      .out = out.as<float>(),
                      .num_rows = rows.value(),
                      .is_gate_up = is_gate_up},
         cpu::unpack,
         cuda::unpack);
}

}  // namespace

void pack_linear(const TensorView& weight,
                 const PackedView& out,
                 const std::optional<TensorView>& row_errors) {
  Matcher matcher("pack_linear");
  pack(matcher, weight, out, row_errors, /*is_gate_up=*/false, Where::current());
}

void pack_gate_up(const TensorView& weight,
                  const PackedView& out,
                  const std::optional<TensorView>& row_errors) {
  Matcher matcher("pack_gate_up");
  pack(matcher, weight, out, row_errors, /*is_gate_up=*/true, Where::current());
}

void unpack_linear(const PackedView& packed, const TensorView& out) {
  Matcher matcher("unpack_linear");
  unpack(matcher, packed, out, /*is_gate_up=*/false, Where::current());
}

void unpack_gate_up(const PackedView& packed, const TensorView& out) {
  Matcher matcher("unpack_gate_up");
  unpack(matcher, packed, out, /*is_gate_up=*/true, Where::current());
}

void quantize(const TensorView& x, const TensorView& out) {
  Matcher matcher("quantize");
  const DType dtype = matcher.model_dtype("x", x);
  Dim tokens("T");
  Dim k("k");
  matcher.match_rows("x", x, dtype, {&tokens, &k});
  match_quantized(matcher, "out", out, tokens, k);
  run_on(matcher.device(),
         QuantizeParams{.dtype = dtype,
                        .x = {x.data, x.stride(0) * dtype_size(dtype)},
                        .out = out.as<std::int8_t>(),
                        .num_tokens = tokens.value(),
                        .in_features = k.value()},
         cpu::quantize,
         cuda::quantize);
}

}  // namespace phi3::ops
