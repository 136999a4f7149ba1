// The norms of a network: rows of the residual stream into rows of a GEMM's activations.
#pragma once

#include <cstdint>

#include "core/check.h"
#include "core/dtype.h"
#include "core/tensor_view.h"

namespace phi3::cuda {

struct NormParams {
  DType dtype;     // A
  const float* h;  // [T, E]
  std::int64_t h_stride;
  const std::int32_t* rows;  // [n], which row of h each row of out is made of; null: the same
  const void* weight;        // A [E]
  const void* bias;          // A [E]; null for rms_norm, else it is layer_norm
  void* out;                 // A [n, E]
  std::int64_t out_stride;   // in bytes
  std::int64_t num_tokens, num_rows, hidden_size;
  float eps;
};

// A row whose index lies outside of h becomes NaN.
void norm_rows(const NormParams& params, Stream stream);

// rms_norm, or with a bias layer_norm, of all rows of h.
template <typename OpParams>
void norm_all_rows(const char* op, const OpParams& params, const void* bias, Stream stream) {
  PHI3_CHECK(!params.out_is_quantized, op, ": out is int8, which is not supported on CUDA");
  norm_rows({.dtype = params.dtype,
             .h = params.h,
             .h_stride = params.h_stride,
             .rows = nullptr,
             .weight = params.weight,
             .bias = bias,
             .out = params.out,
             .out_stride = params.out_stride,
             .num_tokens = params.num_tokens,
             .num_rows = params.num_tokens,
             .hidden_size = params.hidden_size,
             .eps = params.eps},
            stream);
}

}  // namespace phi3::cuda
