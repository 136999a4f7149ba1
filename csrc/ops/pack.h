// Weights into the layout that GEMMs read, activations into what integer formats meet. On CUDA
// "panels" are those of core/weight_format.h for it.
#pragma once

#include <optional>

#include "ops/packed.h"

namespace phi3::ops {

// Rows of `weight` in panels of 16, see core/weight_format.h; what is missing of the last panel and
// of k is written as zeros.
//
// weight:     A [n, k], rows may be strided, n and k at least 1
// out:        ceil(n/16) panels (match_packed) of A or of an integer format; no overlap with weight
// row_errors: float32 [n] or absent; for an integer format, of each row, the root mean square of
//             what the stored weights differ by, over the mean |weight|
void pack_linear(const TensorView& weight,
                 const PackedView& out,
                 const std::optional<TensorView>& row_errors = std::nullopt);

// As pack_linear for the fused rows [gate|up] of an MLP: panel 2i holds rows 16i.. of gate, panel
// 2i + 1 those of up, so that one GEMM tile holds both factors of an activation.
//
// weight: A [2F, E];  out: 2 * ceil(F/16) panels
void pack_gate_up(const TensorView& weight,
                  const PackedView& out,
                  const std::optional<TensorView>& row_errors = std::nullopt);

// As pack_linear for the fused rows q | k | v of `qkv_rope`. On CUDA those of a rotated head follow
// each other so that partners of a rotation are neighbours: dims 0, R/2, 1, R/2 + 1, .. and from R
// on as they come.
//
// weight: A [(H + 2K) D, E]
void pack_qkv(const TensorView& weight,
              const PackedView& out,
              const QkvRows& qkv,
              const std::optional<TensorView>& row_errors = std::nullopt);

// The float32 weights [n, k] that a packed weight stands for.
void unpack_linear(const PackedView& packed, const TensorView& out);
void unpack_gate_up(const PackedView& packed, const TensorView& out);

// Rows of activations as int8, each with its scale max|x| / 127: x ≈ scale · round(x / scale), ties
// to even. A row that is not finite has scale NaN, so that what is made of it is NaN.
//
// x: A [T, k], rows may be strided;  out: quantized rows
void quantize(const TensorView& x, const TensorView& out);

}  // namespace phi3::ops
