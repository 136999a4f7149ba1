// Checks shared by the ops that read or write KV pages.
#pragma once

#include <optional>

#include "core/match.h"
#include "core/params.h"

namespace phi3 {

// Dimensions of attention. H and D are bound by the query tensor, N and K by the pages.
struct AttentionDims {
  Dim heads{"H"};
  Dim kv_heads{"K"};
  Dim head_dim{"D"};
  Dim pages{"N"};
};

// Of int8 pages: what a stored number of token and head stands for is itself times their scale.
struct KvScales {
  TensorView k;  // float32 [N, K, 16]
  TensorView v;  // float32 [N, K, 16]
};

// k_pages: float32 or int8 [N, K, D, 16], or bfloat16 [N, K, D/2, 16, 2]; v_pages: [N, K, 16, D].
// On CUDA k_pages is as v_pages, and either may be fp8 (float8_e4m3fn), which has no scales.
// Pages are int8 with scales, and else of the model's `dtype`. Also: K divides H, 16 divides D,
// D <= kMaxHeadDim. Returns the pages' dtype.
DType match_kv_pages(Matcher& matcher,
                     const TensorView& k_pages,
                     const TensorView& v_pages,
                     const std::optional<KvScales>& scales,
                     DType dtype,
                     AttentionDims& dims,
                     std::source_location where = std::source_location::current());

}  // namespace phi3
