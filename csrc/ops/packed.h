// Checks of packed weights, the form in which ops take every GEMM weight.
#pragma once

#include <source_location>

#include "core/match.h"
#include "core/params.h"

namespace phi3 {

// `view` must hold exactly ceil(n / 16) panels of k columns: float32 [panels, k, 16] or
// bfloat16 [panels, ceil(k/2), 16, 2], contiguous. `rows` (n) must be bound.
PackedWeight match_packed(Matcher& matcher,
                          const char* arg,
                          const TensorView& view,
                          DType dtype,
                          const Dim& rows,
                          const Dim& k,
                          std::source_location where = std::source_location::current());

}  // namespace phi3
