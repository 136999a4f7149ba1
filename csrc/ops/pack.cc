#include "ops/pack.h"

#include "core/match.h"
#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"

namespace phi3::ops {
namespace {

using Where = std::source_location;

// Of `rows` rows, [gate|up] if they are so: as many as the packed weight has.
Dim packed_rows(const Matcher& matcher,
                const Dim& rows,
                PackedRows kind,
                const PackedView& packed,
                Where where) {
  if (kind != PackedRows::kGateUp) return rows;
  matcher.check(rows.value() % 2 == 0,
                where,
                "weight dim 0 (2F) is ",
                rows.value(),
                ", expected an even number");
  return Dim("packed rows", gate_up_rows(packed, rows.value() / 2));
}

const char* rows_name(PackedRows kind) {
  switch (kind) {
    case PackedRows::kPlain:
      return "n";
    case PackedRows::kGateUp:
      return "2F";
    case PackedRows::kQkv:
      return "(H + 2K) D";
  }
  return "?";
}

void check_qkv(const Matcher& matcher, const QkvRows& qkv, const Dim& rows, Where where) {
  matcher.check(qkv.head_dim > 0 && qkv.head_dim <= kMaxHeadDim && qkv.head_dim % kPanelRows == 0,
                where,
                "head dim (D) is ",
                qkv.head_dim,
                ", expected a multiple of ",
                kPanelRows,
                " of at most ",
                kMaxHeadDim);
  matcher.check(qkv.rotary_dim >= 0 && qkv.rotary_dim <= qkv.head_dim && qkv.rotary_dim % 2 == 0,
                where,
                "rotary dim (R) is ",
                qkv.rotary_dim,
                ", expected an even number of 0..",
                qkv.head_dim);
  matcher.check(rows.value() % qkv.head_dim == 0 && qkv.num_rotated_heads >= 0 &&
                    qkv.num_rotated_heads <= rows.value() / qkv.head_dim,
                where,
                "rotated heads (H + K) are ",
                qkv.num_rotated_heads,
                " of ",
                qkv.head_dim,
                " rows each, expected at most the weight's ",
                rows.value(),
                " rows, whole heads");
}

void pack(Matcher& matcher,
          const TensorView& weight,
          const PackedView& out,
          const std::optional<TensorView>& row_errors,
          PackedRows kind,
          const QkvRows& qkv,
          Where where) {
  const DType dtype = matcher.model_dtype("weight", weight);
  Dim rows(rows_name(kind));
  Dim k(kind == PackedRows::kPlain ? "k" : "E");
  matcher.match_rows("weight", weight, dtype, {&rows, &k});
  matcher.check(rows.value() > 0, where, "weight has no rows");
  if (kind == PackedRows::kQkv) check_qkv(matcher, qkv, rows, where);
  match_packed(matcher, "out", out, dtype, packed_rows(matcher, rows, kind, out, where), k);
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
                    .rows = kind,
                    .qkv = qkv},
         cpu::pack,
         cuda::pack);
}

void unpack(Matcher& matcher,
            const PackedView& packed,
            const TensorView& out,
            PackedRows kind,
            Where where) {
  Dim rows(rows_name(kind));
  Dim k(kind == PackedRows::kPlain ? "k" : "E");
  matcher.match("out", out, DType::kFloat32, {&rows, &k});
  matcher.check(rows.value() > 0, where, "out has no rows");
  const DType dtype = packed.format == WeightFormat::kBFloat16 ? DType::kBFloat16 : DType::kFloat32;
  const PackedWeight weight = match_packed(
      matcher, "packed", packed, dtype, packed_rows(matcher, rows, kind, packed, where), k);
  run_on(matcher.device(),
         UnpackParams{
             .weight = weight, .out = out.as<float>(), .num_rows = rows.value(), .rows = kind},
         cpu::unpack,
         cuda::unpack);
}

}  // namespace

void pack_linear(const TensorView& weight,
                 const PackedView& out,
                 const std::optional<TensorView>& row_errors) {
  Matcher matcher("pack_linear");
  pack(matcher, weight, out, row_errors, PackedRows::kPlain, {}, Where::current());
}

void pack_gate_up(const TensorView& weight,
                  const PackedView& out,
                  const std::optional<TensorView>& row_errors) {
  Matcher matcher("pack_gate_up");
  pack(matcher, weight, out, row_errors, PackedRows::kGateUp, {}, Where::current());
}

void pack_qkv(const TensorView& weight,
              const PackedView& out,
              const QkvRows& qkv,
              const std::optional<TensorView>& row_errors) {
  Matcher matcher("pack_qkv");
  pack(matcher, weight, out, row_errors, PackedRows::kQkv, qkv, Where::current());
}

void unpack_linear(const PackedView& packed, const TensorView& out) {
  Matcher matcher("unpack_linear");
  unpack(matcher, packed, out, PackedRows::kPlain, Where::current());
}

void unpack_gate_up(const PackedView& packed, const TensorView& out) {
  Matcher matcher("unpack_gate_up");
  unpack(matcher, packed, out, PackedRows::kGateUp, Where::current());
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
