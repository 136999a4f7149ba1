#include "ops/mlp.h"

#include "core/match.h"
#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"

namespace phi3::ops {

void mlp(const TensorView& x,
         const PackedView& gate_up,
         const PackedView& down,
         const TensorView& act,
         const TensorView& h,
         const std::optional<TensorView>& gate_up_bias,
         const std::optional<TensorView>& down_bias,
         std::optional<float> gegelu_limit,
         const std::optional<TensorView>& quantized_act) {
  Matcher matcher("mlp");
  const DType dtype = activation_dtype(matcher, "x", x, gate_up, "act", act);
  Dim tokens("T");
  Dim hidden("E");
  Dim width("F");
  const Rows rows = match_activations(matcher, "x", x, gate_up, dtype, tokens, hidden);
  matcher.match("act", act, dtype, {&tokens, &width});
  matcher.match_out_rows("h", h, DType::kFloat32, {&tokens, &hidden});
  const Dim both_rows("2F", gate_up_rows(gate_up, width.value()));
  const PackedWeight packed_gate_up =
      match_packed(matcher, "gate_up", gate_up, dtype, both_rows, hidden);
  const PackedWeight packed_down = match_packed(matcher, "down", down, dtype, hidden, width);
  matcher.check(quantized_act.has_value() == is_integer(down.format),
                std::source_location::current(),
                "quantized_act is ",
                quantized_act ? "given" : "missing",
                " with down of format ",
                format_name(down.format));
  if (quantized_act) match_quantized(matcher, "quantized_act", *quantized_act, tokens, width);
  Dim both_widths("2F", 2 * width.value());
  if (gate_up_bias) matcher.match("gate_up_bias", *gate_up_bias, dtype, {&both_widths});
  if (down_bias) matcher.match("down_bias", *down_bias, dtype, {&hidden});
  matcher.check(!gegelu_limit || *gegelu_limit > 0,
                std::source_location::current(),
                "gegelu_limit is ",
                gegelu_limit.value_or(0),
                ", expected a positive number or infinity");
  run_on(matcher.device(),
         MlpParams{.dtype = dtype,
                   .x = rows,
                   .gate_up = packed_gate_up,
                   .down = packed_down,
                   .gate_up_bias = gate_up_bias ? gate_up_bias->data : nullptr,
                   .down_bias = down_bias ? down_bias->data : nullptr,
                   .is_gegelu = gegelu_limit.has_value(),
                   .gegelu_limit = gegelu_limit.value_or(0),
                   .act = act.data,
                   .quantized_act = quantized_act ? quantized_act->as<std::int8_t>() : nullptr,
                   .h = h.as<float>(),
                   .h_stride = h.stride(0),
                   .num_tokens = tokens.value(),
                   .hidden_size = hidden.value(),
                   .mlp_width = width.value()},
         cpu::mlp,
         cuda::mlp);
}

}  // namespace phi3::ops
