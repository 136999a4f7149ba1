// The norms of a network: rows of the residual stream into rows of a GEMM's activations.
#pragma once

#include <cstdint>

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

}  // namespace phi3::cuda
