#pragma once

#include "core/tensor_view.h"

namespace phi3::ops {

// Ends the run of the program that is being recorded, here, if one of `token_ids` is negative (what
// `sample` gives a broken row) or among `end_ids`.
//
// token_ids: int32 [n], CPU;  end_ids: int32 [s], CPU; entries of -1 stand for nothing
// Throws Error on a mismatch, or if no program is being recorded.
void end_on(const TensorView& token_ids, const TensorView& end_ids);

}  // namespace phi3::ops
