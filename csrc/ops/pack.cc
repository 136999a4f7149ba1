#include "ops/pack.h"

#include "core/match.h"
#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"
#include "ops/packed.h"

namespace phi3::ops {
namespace {

using Where = std::source_location;

void pack(Matcher& matcher,
          const TensorView& weight,
          const TensorView& out,
          bool is_gate_up,
          Where where) {
  const DType dtype = matcher.model_dtype("weight", weight);
  Dim rows(is_gate_up ? "2F" : "n");
  Dim k(is_gate_up ? "E" : "k");
  matcher.match_rows("weight", weight, dtype, {&rows, &k});
  matcher.check(rows.value() > 0, where, "weight has no rows");
  Dim packed_rows = rows;
  if (is_gate_up) {
    matcher.check(rows.value() % 2 == 0,
                  where,
                  "weight dim 0 (2F) is ",
                  rows.value(),
                  ", expected an even number");
    const std::int64_t half = (rows.value() / 2 + kPanelRows - 1) / kPanelRows * kPanelRows;
    packed_rows = Dim("packed rows", 2 * half);
  }
  match_packed(matcher, "out", out, dtype, packed_rows, k);
  run_on(matcher.device(),
         PackParams{.dtype = dtype,
                    .weight = weight.data,
                    .weight_stride = weight.stride(0),
                    .out = out.data,
                    .num_rows = rows.value(),
                    .in_features = k.value(),
                    .is_gate_up = is_gate_up},
         cpu::pack,
         cuda::pack);
}

}  // namespace

void pack_linear(const TensorView& weight, const TensorView& out) {
  Matcher matcher("pack_linear");
  pack(matcher, weight, out, /*is_gate_up=*/false, Where::current());
}

void pack_gate_up(const TensorView& weight, const TensorView& out) {
  Matcher matcher("pack_gate_up");
  pack(matcher, weight, out, /*is_gate_up=*/true, Where::current());
}

}  // namespace phi3::ops
