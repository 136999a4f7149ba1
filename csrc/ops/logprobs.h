#pragma once

#include "core/tensor_view.h"

namespace phi3::ops {

// Per row: the log softmax of the logits at a given token, to the bit what `sample` reports where
// it draws that token; and the k likeliest tokens with theirs, largest logit first, of equal ones
// the lower id first. Logits of -inf have log-probability -inf and come last.
//
// A row with a NaN or +inf logit, or with nothing above -inf, gets log-probabilities NaN and ids
// -1; others are unaffected.
//
// logits:           float32 [n, V], rows may be strided
// token_ids:        int32 [n], 0 .. V-1
// out_logprobs:     float32 [n]
// out_top_ids:      int32 [n, k], 0 <= k <= V
// out_top_logprobs: float32 [n, k]
// Throws Error on a mismatch or a token out of range; then nothing is written.
void logprobs(const TensorView& logits,
              const TensorView& token_ids,
              const TensorView& out_logprobs,
              const TensorView& out_top_ids,
              const TensorView& out_top_logprobs);

}  // namespace phi3::ops
