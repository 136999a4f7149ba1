#pragma once

#include "core/tensor_view.h"

namespace phi3::ops {

// One token per row, and its log-probability under the raw logits (temperature and filters not
// applied).
//
// temperature 0: the largest logit, the lowest index among equals. Otherwise, in the order of
// Hugging Face: divide by the temperature; keep the top_k largest and what equals the last of them;
// keep the smallest set of likeliest tokens that weighs at least top_p; draw with u from
// Philox4x32-10 keyed by the seed at counter (position, sequence index), walking the kept tokens in
// index order. No state: equal arguments give the equal token.
//
// A row with a NaN or +inf logit, or with nothing above -inf, gets id -1 and log-probability NaN;
// others are unaffected.
//
// logits:                      float32 [n, V], rows may be strided
// temperature, top_p:          float32 [n]; temperature >= 0, 0 < top_p <= 1 (1: off)
// top_k:                       int32 [n], >= 0 (0: off)
// seeds:                       int64 [n], the bits of a u64
// sequence_indices, positions: int32 [n], >= 0
// out_ids:                     int32 [n]
// out_logprobs:                float32 [n]
// Throws Error on a mismatch or a setting out of range; then nothing is written.
void sample(const TensorView& logits,
            const TensorView& temperature,
            const TensorView& top_k,
            const TensorView& top_p,
            const TensorView& seeds,
            const TensorView& sequence_indices,
            const TensorView& positions,
            const TensorView& out_ids,
            const TensorView& out_logprobs);

}  // namespace phi3::ops
