#pragma once

#include <optional>

#include "core/tensor_view.h"

namespace phi3::ops {

// What rows have seen, and what that costs a token. An entry is a token of the prompt or the
// answer, at most one per token and row; its count is how often the answer has it.
//
// repetition:          float32 [n], finite and above 0 (1: off); divides what is above 0,
// multiplies what is below presence, frequency: float32 [n], finite (0: off); subtracted once, and
// once per occurrence, where the count is above 0 starts:              int32 [n+1]; row i owns the
// entries starts[i] .. starts[i + 1], from 0 and to the last token_ids:           int32 [c], 0 ..
// V-1 counts:              int32 [c], >= 0
struct SamplePenalties {
  TensorView repetition, presence, frequency, starts, token_ids, counts;
};

// What is added to single logits.
//
// starts:    int32 [n+1], as above
// token_ids: int32 [b], 0 .. V-1; what is said of a token more than once adds up
// values:    float32 [b], finite, or -inf to forbid the token
struct SampleBiases {
  TensorView starts, token_ids, values;
};

// One token per row, and its log-probability under the raw logits (nothing below applied).
//
// In this order: repetition, presence and frequency penalty; biases. Then, temperature 0: the
// largest logit, the lowest index among equals. Otherwise, in the order of Hugging Face: divide by
// the temperature; keep the top_k largest and what equals the last of them; keep the smallest set
// of likeliest tokens that weighs at least top_p; keep what is at least min_p times as likely as
// the likeliest; keep the smallest set of tokens whose surprise is next to the entropy that weighs
// at least typical_p, and what is as near as the last of them; draw with u from Philox4x32-10 keyed
// by the seed at counter (position, sequence index), walking the kept tokens in index order. No
// state: equal arguments give the equal token.
//
// A row with a NaN or +inf logit, or with nothing above -inf before or after biases, gets id -1 and
// log-probability NaN; others are unaffected.
//
// logits:                      float32 [n, V], rows may be strided
// temperature, top_p:          float32 [n]; temperature >= 0, 0 < top_p <= 1 (1: off)
// top_k:                       int32 [n], >= 0 (0: off)
// min_p:                       float32 [n], 0 .. 1 (0: off)
// typical_p:                   float32 [n], 0 < typical_p <= 1 (1: off)
// seeds:                       int64 [n], the bits of a u64
// sequence_indices, positions: int32 [n], >= 0
// out_ids:                     int32 [n]
// out_logprobs:                float32 [n]
// workspace:                   uint8, of sample_workspace_bytes; on CUDA, with penalties or biases
// What is optional is off in every row where absent.
// Throws Error on a mismatch or a setting out of range; then nothing is written.
void sample(const TensorView& logits,
            const TensorView& temperature,
            const TensorView& top_k,
            const TensorView& top_p,
            const TensorView& seeds,
            const TensorView& sequence_indices,
            const TensorView& positions,
            const TensorView& out_ids,
            const TensorView& out_logprobs,
            const std::optional<TensorView>& min_p = {},
            const std::optional<TensorView>& typical_p = {},
            const std::optional<SamplePenalties>& penalties = {},
            const std::optional<SampleBiases>& biases = {},
            const std::optional<TensorView>& workspace = {});

// Bytes of workspace that `sample` needs on CUDA for n rows with penalties or biases.
// Throws Error where a size is out of range.
std::int64_t sample_workspace_bytes(std::int64_t num_rows, std::int64_t vocab_size);

}  // namespace phi3::ops
