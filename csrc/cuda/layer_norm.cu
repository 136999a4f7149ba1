#include "core/check.h"
#include "cuda/cuda.h"
#include "cuda/norm.h"

namespace phi3::cuda {

void layer_norm(const LayerNormParams& params, Stream stream) {
  PHI3_CHECK(!params.out_is_quantized, "layer_norm: out is int8, which is not supported on CUDA");
  norm_rows({.dtype = params.dtype,
             .h = params.h,
             .h_stride = params.h_stride,
             .rows = nullptr,
             .weight = params.weight,
             .bias = params.bias,
             .out = params.out,
             .out_stride = params.out_stride,
             .num_tokens = params.num_tokens,
             .num_rows = params.num_tokens,
             .hidden_size = params.hidden_size,
             .eps = params.eps},
            stream);
}

}  // namespace phi3::cuda
