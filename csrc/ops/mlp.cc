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
         const TensorView& h) {
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
  run_on(matcher.device(),
         MlpParams{.dtype = dtype,
                   .x = x.data,
                   .x_stride = x.stride(0),
                   .gate_up = packed_gate_up,
                   .down = packed_down,
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
