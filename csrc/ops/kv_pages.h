// Checks shared by the ops that read or write KV pages.
#pragma once

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

// k_pages: float32 [N, K, D, 16] or bfloat16 [N, K, D/2, 16, 2]; v_pages: [N, K, 16, D]. Also: K
// divides H, 16 divides D, D <= kMaxHeadDim.
void match_kv_pages(Matcher& matcher,
                    const TensorView& k_pages,
                    const TensorView& v_pages,
                    DType dtype,
                    AttentionDims& dims,
                    std::source_location where = std::source_location::current());

}  // namespace phi3
