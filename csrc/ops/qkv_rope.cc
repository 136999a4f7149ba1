#include "ops/qkv_rope.h"

#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"

namespace phi3::ops {

void qkv_rope(const TensorView& x,
              const PackedView& weight,
              const TensorView& positions,
              const TensorView& rope_sets,
              const TensorView& rope_table,
              const TensorView& slots,
              const TensorView& k_pages,
              const TensorView& v_pages,
              const TensorView& q_out,
              const std::optional<KvScales>& scales,
              const std::optional<TensorView>& bias) {
  Matcher matcher("qkv_rope");
  const DType dtype = activation_dtype(matcher, "x", x, weight, "q_out", q_out);
  Dim tokens("T");
  Dim hidden("E");
  Dim sets("S");
  Dim max_positions("max_pos");
  Dim half_rotary("R/2");
  Dim pair("cos, sin", 2);
  AttentionDims dims;
  const Rows activations = match_activations(matcher, "x", x, weight, dtype, tokens, hidden);
  matcher.match("positions", positions, DType::kInt32, {&tokens});
  matcher.match("rope_sets", rope_sets, DType::kInt32, {&tokens});
  matcher.match(
      "rope_table", rope_table, DType::kFloat32, {&sets, &max_positions, &half_rotary, &pair});
  matcher.match("slots", slots, DType::kInt32, {&tokens});
  matcher.match("q_out", q_out, dtype, {&tokens, &dims.heads, &dims.head_dim});
  const DType kv_dtype = match_kv_pages(matcher, k_pages, v_pages, scales, dtype, dims);
  const std::int64_t rotary_dim = 2 * half_rotary.value();
  matcher.check(rotary_dim <= dims.head_dim.value(),
                std::source_location::current(),
                "rotary dim (R) is ",
                rotary_dim,
                ", expected at most the head dim, ",
                dims.head_dim.value());
  Dim rows("(H + 2K) D", (dims.heads.value() + 2 * dims.kv_heads.value()) * dims.head_dim.value());
  const PackedWeight packed = match_packed(matcher, "weight", weight, dtype, rows, hidden);
  if (bias) matcher.match("bias", *bias, dtype, {&rows});
  run_on(matcher.device(),
         QkvRopeParams{.dtype = dtype,
                       .x = activations,
                       .weight = packed,
                       .bias = bias ? bias->data : nullptr,
                       .positions = positions.as<const std::int32_t>(),
                       .rope_sets = rope_sets.as<const std::int32_t>(),
                       .rope_table = rope_table.as<const float>(),
                       .slots = slots.as<const std::int32_t>(),
                       .kv_dtype = kv_dtype,
                       .k_pages = k_pages.data,
                       .v_pages = v_pages.data,
                       .k_scales = scales ? scales->k.as<float>() : nullptr,
                       .v_scales = scales ? scales->v.as<float>() : nullptr,
                       .q_out = q_out.data,
                       .num_tokens = tokens.value(),
                       .num_heads = dims.heads.value(),
                       .num_kv_heads = dims.kv_heads.value(),
                       .head_dim = dims.head_dim.value(),
                       .rotary_dim = rotary_dim,
                       .num_pages = dims.pages.value(),
                       .num_rope_sets = sets.value(),
                       .max_positions = max_positions.value()},
         cpu::qkv_rope,
         cuda::qkv_rope);
}

}  // namespace phi3::ops
