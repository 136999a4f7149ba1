// lm_head and classify_head: final norm of the chosen rows, then their scores.
#include "core/check.h"
#include "cuda/cuda.h"
#include "cuda/norm.h"

namespace phi3::cuda {

void head(const HeadParams& params, Stream stream) {
  PHI3_CHECK(!is_integer(params.weight.format),
             params.op,
             ": ",
             format_name(params.weight.format),
             " weights are not supported on cuda");
  const Rows normed{params.normed, params.hidden_size * dtype_size(params.dtype)};
  norm_rows({.dtype = params.dtype,
             .h = params.h,
             .h_stride = params.h_stride,
             .rows = params.rows,
             .weight = params.norm_weight,
             .bias = params.norm_bias,
             .out = params.normed,
             .out_stride = normed.stride,
             .num_tokens = params.num_tokens,
             .num_rows = params.num_rows,
             .hidden_size = params.hidden_size,
             .eps = params.eps},
            stream);
  linear({.dtype = params.dtype,
          .x = normed,
          .weight = params.weight,
          .bias = params.bias,
          .scale = params.scale,
          .out = params.out,
          .out_stride = params.out_features,
          .out_is_f32 = true,
          .accumulate = false,
          .num_tokens = params.num_rows,
          .out_features = params.out_features},
         stream);
}

}  // namespace phi3::cuda
