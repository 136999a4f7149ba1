#pragma once

#include <optional>

#include "ops/kv_pages.h"
#include "ops/packed.h"

namespace phi3::ops {

// [q|k|v] = x Wᵀ (+ bias); q and k rotated; q into q_out, k and v into their KV page slots.
//
// Rotation of the first R dims of a head, in float32: dims i and i + R/2 become
//   a·cos - b·sin  and  b·cos + a·sin,  with (cos, sin) =
//   rope_table[rope_sets[t]][positions[t]][i].
//
// x:          A [T, E], rows may be strided; quantized rows where weight is of an integer format
// weight:     packed, (H + 2K)·D rows: q heads, k heads, v heads
// positions:  int32 [T] in 0..max_pos-1
// rope_sets:  int32 [T] in 0..S-1
// rope_table: float32 [S, max_pos, R/2, 2], the attention factor folded in; R <= D
// slots:      int32 [T], page · 16 + offset, distinct
// k_pages:    A, float32 [N, K, D, 16] or bfloat16 [N, K, D/2, 16, 2]: each page a packed panel of
//             16 keys. With scales int8 [N, K, D, 16]
// v_pages:    A, or with scales int8, [N, K, 16, D]
// q_out:      A [T, H, D];  H a multiple of K, D a multiple of 16 and at most 256
// scales:     float32 [N, K, 16] each. With them every head of k and of v is quantized by itself,
//             from float32: scale = max|x| / 127, stored = round(x / scale), ties to even; a head
//             of zeros has scale 0. A head with a NaN or infinity has scale NaN, so that whoever
//             reads it gets NaN
// bias:       A [(H + 2K)·D] or absent, added in float32 before the rotation
// Throws Error on a mismatch or an index out of range; then nothing is written.
void qkv_rope(const TensorView& x,
              const PackedView& weight,
              const TensorView& positions,
              const TensorView& rope_sets,
              const TensorView& rope_table,
              const TensorView& slots,
              const TensorView& k_pages,
              const TensorView& v_pages,
              const TensorView& q_out,
              const std::optional<KvScales>& scales = std::nullopt,
              const std::optional<TensorView>& bias = std::nullopt);

}  // namespace phi3::ops
