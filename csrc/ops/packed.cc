#include "ops/packed.h"

#include "cuda/cuda.h"

namespace phi3 {
namespace {

void check_integer_columns(const Matcher& matcher,
                           const char* arg,
                           std::int64_t k,
                           std::source_location where) {
  matcher.check(k >= 1 && k <= kMaxIntegerK,
                where,
                arg,
                " has ",
                k,
                " columns, expected 1..",
                kMaxIntegerK,
                " where numbers are integers");
}

// Of a weight whose memory does not tell them.
void check_columns(const Matcher& matcher,
                   const char* arg,
                   const PackedView& packed,
                   const Dim& k,
                   std::source_location where) {
  matcher.check(packed.in_features == k.value(),
                where,
                arg,
                " has ",
                packed.in_features,
                " columns (",
                k.name(),
                "), expected ",
                k.value());
}

PackedWeight match_packed_on_cuda(Matcher& matcher,
                                  const char* arg,
                                  const PackedView& packed,
                                  DType dtype,
                                  const Dim& rows,
                                  const Dim& k,
                                  std::source_location where) {
  const std::int64_t num_rows = cuda_rows(rows.value());
  if (packed.format == WeightFormat::kFloat8) {
    check_columns(matcher, arg, packed, k, where);
    Dim bytes("bytes of fp8", cuda_float8_bytes(rows.value(), k.value()));
    matcher.match(arg, packed.view, DType::kUInt8, {&bytes}, where);
  } else {
    matcher.check(is_float(packed.format),
                  where,
                  arg,
                  " is ",
                  format_name(packed.format),
                  ", which is not supported on CUDA: expected float32, bfloat16 or fp8");
    Dim padded_rows("packed rows", num_rows);
    Dim columns("packed columns", cuda_columns(k.value()));
    matcher.match(arg, packed.view, dtype, {&padded_rows, &columns}, where);
  }
  matcher.check(reinterpret_cast<std::uintptr_t>(packed.view.data) % 16 == 0,
                where,
                arg,
                " is not aligned to 16 bytes");
  return {packed.view.data, num_rows / kPanelRows, k.value(), packed.format};
}

}  // namespace

PackedWeight match_packed(Matcher& matcher,
                          const char* arg,
                          const PackedView& packed,
                          DType dtype,
                          const Dim& rows,
                          const Dim& k,
                          std::source_location where) {
  matcher.check(k.value() > 0, where, arg, " has no columns");
  const WeightFormat plain =
      dtype == DType::kBFloat16 ? WeightFormat::kBFloat16 : WeightFormat::kFloat32;
  matcher.check(!is_float(packed.format) || packed.view.dtype != dtype || packed.format == plain,
                where,
                arg,
                " is ",
                dtype_name(dtype),
                " and said to be ",
                format_name(packed.format));
  if (cuda::owns(packed.view.device)) {
    return match_packed_on_cuda(matcher, arg, packed, dtype, rows, k, where);
  }
  matcher.check(packed.format != WeightFormat::kFloat8,
                where,
                arg,
                " is fp8, which is supported on CUDA only");
  Dim panels("panels", round_up(rows.value(), kPanelRows) / kPanelRows);
  Dim lanes("panel rows", kPanelRows);
  if (!is_float(packed.format)) {
    check_integer_columns(matcher, arg, k.value(), where);
    check_columns(matcher, arg, packed, k, where);
    Dim bytes("panel bytes", panel_bytes(packed.format, k.value()));
    matcher.match(arg, packed.view, DType::kUInt8, {&panels, &bytes}, where);
    matcher.check(reinterpret_cast<std::uintptr_t>(packed.view.data) % alignof(float) == 0,
                  where,
                  arg,
                  " is not aligned to ",
                  alignof(float),
                  " bytes");
  } else if (dtype == DType::kBFloat16) {
    Dim pairs("column pairs", (k.value() + 1) / 2);
    Dim pair("pair", 2);
    matcher.match(arg, packed.view, dtype, {&panels, &pairs, &lanes, &pair}, where);
  } else {
    Dim columns(k.name(), k.value());
    matcher.match(arg, packed.view, dtype, {&panels, &columns, &lanes}, where);
  }
  return {packed.view.data, panels.value(), k.value(), packed.format};
}

Rows match_activations(Matcher& matcher,
                       const char* arg,
                       const TensorView& view,
                       const PackedView& weight,
                       DType dtype,
                       Dim& tokens,
                       Dim& columns,
                       std::source_location where) {
  if (!is_integer(weight.format)) {
    matcher.match_rows(arg, view, dtype, {&tokens, &columns}, where);
    return {view.data, view.stride(0) * dtype_size(dtype)};
  }
  if (!columns.is_bound()) {
    check_integer_columns(matcher, "weight", weight.in_features, where);
    columns.bind(weight.in_features);
  }
  match_quantized(matcher, arg, view, tokens, columns, where);
  return {view.data, quantized_row_bytes(columns.value())};
}

DType activation_dtype(Matcher& matcher,
                       const char* arg,
                       const TensorView& view,
                       const PackedView& weight,
                       const char* other_arg,
                       const TensorView& other,
                       std::source_location where) {
  return is_integer(weight.format) ? matcher.model_dtype(other_arg, other, where)
                                   : matcher.model_dtype(arg, view, where);
}

std::int64_t gate_up_rows(const PackedView& packed, std::int64_t mlp_width) {
  return cuda::owns(packed.view.device) ? 2 * mlp_width : 2 * round_up(mlp_width, kPanelRows);
}

void match_quantized(Matcher& matcher,
                     const char* arg,
                     const TensorView& view,
                     Dim& tokens,
                     const Dim& columns,
                     std::source_location where) {
  check_integer_columns(matcher, arg, columns.value(), where);
  Dim bytes("quantized row", quantized_row_bytes(columns.value()));
  matcher.match(arg, view, DType::kInt8, {&tokens, &bytes}, where);
  matcher.check(reinterpret_cast<std::uintptr_t>(view.data) % alignof(QuantizedRowHeader) == 0,
                where,
                arg,
                " is not aligned to ",
                alignof(QuantizedRowHeader),
                " bytes");
}

}  // namespace phi3
