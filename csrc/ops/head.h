#pragma once

#include <optional>

#include "ops/packed.h"

namespace phi3::ops {

// logits = scale · norm(h[rows]) Wᵀ (+ bias): final norm and vocabulary scores of the rows that
// need them. The norm is rms_norm, or with a norm_bias layer_norm.
//
// h:           float32 [T, E], rows may be strided
// rows:        int32 [n], each in 0..T-1
// norm_weight: A [E]
// weight:      packed, V rows
// normed:      A [n, E] workspace; afterwards the normed rows. Quantized rows where weight is of an
//              integer format
// logits:      float32 [n, V]
// norm_bias:   A [E] or absent
// bias:        A [V] or absent; -inf forbids a token
// scale:       finite and positive
// Throws Error on a mismatch or a row out of range; then nothing is written.
void lm_head(const TensorView& h,
             const TensorView& rows,
             const TensorView& norm_weight,
             const PackedView& weight,
             const TensorView& normed,
             const TensorView& logits,
             float eps,
             const std::optional<TensorView>& norm_bias = std::nullopt,
             const std::optional<TensorView>& bias = std::nullopt,
             float scale = 1.0F);

// scores = norm(h[rows]) Wᵀ (+ bias). As lm_head, with C classes and bias A [C] or absent.
void classify_head(const TensorView& h,
                   const TensorView& rows,
                   const TensorView& norm_weight,
                   const PackedView& weight,
                   const std::optional<TensorView>& bias,
                   const TensorView& normed,
                   const TensorView& scores,
                   float eps,
                   const std::optional<TensorView>& norm_bias = std::nullopt);

}  // namespace phi3::ops
