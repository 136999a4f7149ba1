#pragma once

#include "core/tensor_view.h"

namespace phi3::ops {

// out = h / sqrt(mean(h²) + eps) · weight, per row, in float32 and rounded once.
//
// h:      float32 [T, E], rows may be strided
// weight: A [E]
// out:    A [T, E], rows may be strided; may be h itself when A is float32. Or quantized rows
void rms_norm(const TensorView& h, const TensorView& weight, const TensorView& out, float eps);

}  // namespace phi3::ops
