#include <algorithm>
#include <cstdint>
#include <limits>

#include "core/dispatch.h"
#include "cuda/cuda.h"
#include "cuda/four.cuh"
#include "cuda/launch.h"
#include "cuda/packed_rows.cuh"

namespace phi3::cuda {
namespace {

constexpr std::int64_t kMaxThreads = 256;

template <typename T>
PHI3_DEVICE PackedRow<const T> table_row(const EmbeddingParams& p, std::int64_t id) {
  if (p.table == nullptr) return packed_row<T>(p.packed, id);
  return {static_cast<const T*>(p.table) + id * p.hidden_size, nullptr};
}

// A block per token. An id outside of the vocabulary gives NaN.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads) embedding_kernel(EmbeddingParams p) {
  const std::int64_t token = blockIdx.x;
  const std::int64_t id = p.token_ids[token];
  const FourRow<float> out(p.out + token * p.out_stride, p.hidden_size);
  const bool is_known = id >= 0 && id < p.vocab_size;
  const auto [numbers, scale] = table_row<T>(p, is_known ? id : 0);
  const FourRow<const T> row(numbers, p.hidden_size);
  const float row_scale = scale == nullptr ? 1.0F : *scale;
  const float factor = is_known ? p.scale : std::numeric_limits<float>::quiet_NaN();
  out.for_each_four([&](int four) {
    Four<float> values = row.load(four);
    for (int i = 0; i < 4; ++i) values.at[i] = values.at[i] * row_scale * factor;
    out.store(four, values);
  });
}

}  // namespace

void embedding(const EmbeddingParams& params, Stream stream) {
  const std::int64_t threads = round_up((params.hidden_size + 3) / 4, kWarpSize);
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(params.num_tokens)),
      .threads = static_cast<unsigned>(std::min(threads, kMaxThreads)),
  };
  const auto run = [&]<typename T>() { launch<embedding_kernel<T>>(shape, stream, params); };
  if (params.table == nullptr) {
    dispatch_cuda_format(params.packed.format, run);
  } else {
    dispatch_model_dtype(params.dtype, run);
  }
}

}  // namespace phi3::cuda
