#pragma once

#include <optional>

#include "ops/packed.h"

namespace phi3::ops {

// h += act Dᵀ (+ down_bias) with act = silu(gate) · up, gate = x Gᵀ (+ bias), up = x Uᵀ (+ bias)
// and silu(a) = a / (1 + exp(-a)).
//
// With a gegelu_limit act = a · sigmoid(1.702 a) · (b + 1), where a = min(gate, limit) and
// b = clamp(up, -limit, limit); only infinities are not limited.
//
// x:             A [T, E], rows may be strided; quantized rows where gate_up is of an integer
//                format
// gate_up:       packed, panels of G and U alternating (pack_gate_up)
// down:          packed, E rows of F columns (pack_linear)
// act:           A [T, F] workspace; its content after the call is the rounded activation
// h:             float32 [T, E], rows may be strided, no overlap with x or act
// gate_up_bias:  A [2F], gate | up, or absent
// down_bias:     A [E] or absent
// gegelu_limit:  above 0, infinity for none
// quantized_act: quantized rows of act, a workspace where down is of an integer format, else absent
void mlp(const TensorView& x,
         const PackedView& gate_up,
         const PackedView& down,
         const TensorView& act,
         const TensorView& h,
         const std::optional<TensorView>& gate_up_bias = std::nullopt,
         const std::optional<TensorView>& down_bias = std::nullopt,
         std::optional<float> gegelu_limit = std::nullopt,
         const std::optional<TensorView>& quantized_act = std::nullopt);

}  // namespace phi3::ops
