#pragma once

#include "core/tensor_view.h"

namespace phi3::ops {

// out = source, bit for bit. With one of them on a CUDA device the copy is queued there; memory of
// the CPU then has to be page-locked, and left alone until that is over.
//
// source, out: of one dtype and shape, contiguous
// Throws Error on a mismatch.
void copy(const TensorView& source, const TensorView& out);

}  // namespace phi3::ops
