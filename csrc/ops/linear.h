#pragma once

#include <optional>

#include "ops/packed.h"

namespace phi3::ops {

// out = x Wᵀ (+ bias), or out += x Wᵀ (+ bias) with `accumulate`. Each element is one float32 chain
// over k in index order, or one exact sum of integers, so its bits do not depend on T or on the
// other rows.
//
// x:      A [T, k], rows may be strided; quantized rows where weight is of an integer format
// weight: packed, n rows (pack_linear)
// out:    A or float32 [T, n], rows may be strided, no overlap with x; float32 with accumulate
// bias:   A [n] or absent
void linear(const TensorView& x,
            const PackedView& weight,
            const TensorView& out,
            const std::optional<TensorView>& bias,
            bool accumulate);

}  // namespace phi3::ops
