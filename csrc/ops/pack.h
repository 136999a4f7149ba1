// Weights into the layout that GEMMs read.
#pragma once

#include "core/tensor_view.h"

namespace phi3::ops {

// Rows of `weight` in panels of 16; missing rows and columns of the last panel and pair are written
// as zeros.
//
// weight: A [n, k], rows may be strided, n and k at least 1
// out:    A, float32 [ceil(n/16), k, 16] or bfloat16 [ceil(n/16), ceil(k/2), 16, 2]; no overlap
// with weight
void pack_linear(const TensorView& weight, const TensorView& out);

// As pack_linear for the fused rows [gate|up] of an MLP: panel 2i holds rows 16i.. of gate, panel
// 2i + 1 those of up, so that one GEMM tile holds both factors of an activation.
//
// weight: A [2F, E];  out: A, 2 * ceil(F/16) panels
void pack_gate_up(const TensorView& weight, const TensorView& out);

}  // namespace phi3::ops
