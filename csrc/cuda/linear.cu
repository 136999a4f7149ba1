#include "cuda/cuda.h"
#include "cuda/gemm.cuh"

namespace phi3::cuda {

void linear(const LinearParams& params, Stream stream) {
  gemm<StoreEpilogue>({.op = "linear",
                       .dtype = params.dtype,
                       .x = params.x,
                       .weight = params.weight,
                       .num_tokens = params.num_tokens},
                      {.row_scales = row_scales(params.weight),
                       .scale = params.scale,
                       .dtype = params.dtype,
                       .bias = params.bias,
                       .out_dtype = params.out_is_f32 ? DType::kFloat32 : params.dtype,
                       .out = params.out,
                       .out_stride = params.out_stride,
                       .accumulate = params.accumulate,
                       .out_features = params.out_features},
                      stream);
}

}  // namespace phi3::cuda
