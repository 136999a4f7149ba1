#include "ops/mlp.h"

#include "core/match.h"
#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"
#include "ops/packed.h"

namespace phi3::ops {

void mlp(const TensorView& x,
         const TensorView& gate_up,
         const TensorView& down,
         const TensorView& act,
         const TensorView& h,
         const std::optional<TensorView>& gate_up_bias,
         const std::optional<TensorView>& down_bias,
         std::optional<float> gegelu_limit) {
  Matcher matcher("mlp");
  const DType dtype = matcher.model_dtype("x", x);
  Dim tokens("T");
  Dim hidden("E");
  Dim width("F");
  matcher.match_rows("x", x, dtype, {&tokens, &hidden});
  matcher.match("act", act, dtype, {&tokens, &width});
  matcher.match_out_rows("h", h, DType::kFloat32, {&tokens, &hidden});
  const std::int64_t padded_width = (width.value() + kPanelRows - 1) / kPanelRows * kPanelRows;
  const Dim gate_up_rows("2F", 2 * padded_width);
  const PackedWeight packed_gate_up =
      match_packed(matcher, "gate_up", gate_up, dtype, gate_up_rows, hidden);
  const PackedWeight packed_down = match_packed(matcher, "down", down, dtype, hidden, width);
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
                   .x = x.data,
                   .x_stride = x.stride(0),
                   .gate_up = packed_gate_up,
                   .down = packed_down,
                   .gate_up_bias = gate_up_bias ? gate_up_bias->data : nullptr,
                   .down_bias = down_bias ? down_bias->data : nullptr,
                   .is_gegelu = gegelu_limit.has_value(),
                   .gegelu_limit = gegelu_limit.value_or(0),
                   .act = act.data,
                   .h = h.as<float>(),
                   .h_stride = h.stride(0),
                   .num_tokens = tokens.value(),
                   .hidden_size = hidden.value(),
                   .mlp_width = width.value()},
         cpu::mlp,
         cuda::mlp);
}

}  // namespace phi3::ops
