#pragma once

#include "core/tensor_view.h"

namespace phi3::ops {

// h += (silu(x Gᵀ) · (x Uᵀ)) Dᵀ, with silu(a) = a / (1 + exp(-a)).
//
// x:       A [T, E], rows may be strided
// gate_up: packed A, panels of G and U alternating (pack_gate_up)
// down:    packed A, E rows of F columns (pack_linear)
// act:     A [T, F] workspace; its content after the call is the rounded activation
// h:       float32 [T, E], rows may be strided, no overlap with x or act
void mlp(const TensorView& x,
         const TensorView& gate_up,
         const TensorView& down,
         const TensorView& act,
         const TensorView& h);

}  // namespace phi3::ops
