#pragma once

#include "core/tensor_view.h"

namespace phi3::ops {

// out = (h - mean(h)) / sqrt(var(h) + eps) · weight + bias, per row, in float32 and rounded once;
// var = mean((h - mean(h))²), the biased one.
//
// h:            float32 [T, E], rows may be strided
// weight, bias: A [E]
// out:          A [T, E], rows may be strided; may be h itself when A is float32. Or quantized rows
void layer_norm(const TensorView& h,
                const TensorView& weight,
                const TensorView& bias,
                const TensorView& out,
                float eps);

}  // namespace phi3::ops
