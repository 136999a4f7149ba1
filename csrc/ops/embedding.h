#pragma once

#include <cstdint>

#include "ops/packed.h"

namespace phi3::ops {

// out[t] = scale · table[token_ids[t]], in float32.
//
// token_ids: int32 [T], each in 0..V-1
// table:     A [V, E], or the packed weight of an lm_head that is tied to the embedding
// out:       float32 [T, E], rows may be strided
// scale:     finite and positive
// Throws Error on a mismatch or an id out of range; then nothing is written.
void embedding(const TensorView& token_ids,
               const PackedView& table,
               const TensorView& out,
               std::int64_t vocab_size,
               float scale = 1.0F);

}  // namespace phi3::ops
