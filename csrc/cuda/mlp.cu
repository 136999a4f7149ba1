#include "cuda/cuda.h"
#include "cuda/gemm.cuh"

namespace phi3::cuda {

void mlp(const MlpParams& params, Stream stream) {
  gemm<GatedEpilogue>({.op = "mlp",
                       .dtype = params.dtype,
                       .x = params.x,
                       .weight = params.gate_up,
                       .num_tokens = params.num_tokens},
                      {.row_scales = row_scales(params.gate_up),
                       .dtype = params.dtype,
                       .bias = params.gate_up_bias,
                       .is_gegelu = params.is_gegelu,
                       .gegelu_limit = params.gegelu_limit,
                       .act = params.act,
                       .mlp_width = params.mlp_width},
                      stream);
  linear({.dtype = params.dtype,
          .x = {params.act, params.mlp_width * dtype_size(params.dtype)},
          .weight = params.down,
          .bias = params.down_bias,
          .scale = 1.0F,
          .out = params.h,
          .out_stride = params.h_stride,
          .out_is_f32 = true,
          .accumulate = true,
          .num_tokens = params.num_tokens,
          .out_features = params.hidden_size},
         stream);
}

}  // namespace phi3::cuda
