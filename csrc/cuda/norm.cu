#include <algorithm>
#include <bit>
#include <cstddef>
#include <limits>

#include "core/dispatch.h"
#include "cuda/four.cuh"
#include "cuda/launch.h"
#include "cuda/norm.h"
#include "cuda/reduce.cuh"

namespace phi3::cuda {
namespace {

constexpr int kMaxThreads = 512;

struct NormBlock {
  float partials[kMaxWarps];
};

template <typename T, typename ValueOf>
PHI3_DEVICE void write_row(const FourRow<T>& out, ValueOf value_of) {
  out.for_each_four([&](int four) { out.store(four, value_of(four)); });
}

template <typename T>
PHI3_DEVICE void rms_norm_row(const NormParams& p,
                              const FourRow<const float>& h,
                              const FourRow<T>& out,
                              float* partials) {
  float squares = 0;
  h.for_each_four([&](int four) {
    const Four<float> x = h.load(four);
    for (int i = 0; i < 4; ++i) squares = fmaf(x.at[i], x.at[i], squares);
  });
  const float mean = reduce_block(squares, partials, Plus{}) / static_cast<float>(p.hidden_size);
  const float factor = 1.0F / sqrtf(mean + p.eps);
  const FourRow weight(static_cast<const T*>(p.weight), p.hidden_size);
  write_row(out, [&](int four) {
    const Four<float> w = weight.load(four);
    Four<float> x = h.load(four);
    for (int i = 0; i < 4; ++i) x.at[i] = x.at[i] * factor * w.at[i];
    return x;
  });
}

template <typename T>
PHI3_DEVICE void layer_norm_row(const NormParams& p,
                                const FourRow<const float>& h,
                                const FourRow<T>& out,
                                float* partials) {
  const auto size = static_cast<float>(p.hidden_size);
  float sum = 0;
  h.for_each_four([&](int four) {
    const Four<float> x = h.load(four);
    for (int i = 0; i < 4; ++i) sum += x.at[i];
  });
  const float mean = reduce_block(sum, partials, Plus{}) / size;
  float squares = 0;
  h.for_each_four([&](int four) {
    const Four<float> x = h.load(four);
    for (int i = 0; i < 4; ++i) {
      const float distance = h.has(four, i) ? x.at[i] - mean : 0.0F;
      squares = fmaf(distance, distance, squares);
    }
  });
  const float variance = reduce_block(squares, partials, Plus{}) / size;
  const float factor = 1.0F / sqrtf(variance + p.eps);
  const FourRow weight(static_cast<const T*>(p.weight), p.hidden_size);
  const FourRow bias(static_cast<const T*>(p.bias), p.hidden_size);
  write_row(out, [&](int four) {
    const Four<float> w = weight.load(four);
    const Four<float> b = bias.load(four);
    Four<float> x = h.load(four);
    for (int i = 0; i < 4; ++i) x.at[i] = fmaf((x.at[i] - mean) * factor, w.at[i], b.at[i]);
    return x;
  });
}

// A block per row.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads) norm_kernel(NormParams p) {
  auto& block = *reinterpret_cast<NormBlock*>(shared_memory());
  const std::int64_t row = blockIdx.x;
  const std::int64_t token = p.rows == nullptr ? row : p.rows[row];
  auto* to = reinterpret_cast<T*>(static_cast<std::byte*>(p.out) + row * p.out_stride);
  const FourRow<T> out(to, p.hidden_size);
  if (token < 0 || token >= p.num_tokens) {
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    write_row(out, [](int) { return Four<float>{{kNan, kNan, kNan, kNan}}; });
    return;
  }
  const FourRow<const float> h(p.h + token * p.h_stride, p.hidden_size);
  if (p.bias == nullptr) {
    rms_norm_row(p, h, out, block.partials);
  } else {
    layer_norm_row(p, h, out, block.partials);
  }
}

// Of the width alone: the sums are grouped by it.
unsigned threads_for(std::int64_t hidden_size) {
  const auto wanted = static_cast<std::uint64_t>(hidden_size + 15) / 16;  // four fours each
  return static_cast<unsigned>(std::clamp<std::uint64_t>(std::bit_ceil(wanted), 32, kMaxThreads));
}

}  // namespace

void norm_rows(const NormParams& params, Stream stream) {
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(params.num_rows)),
                          .threads = threads_for(params.hidden_size),
                          .shared_bytes = sizeof(NormBlock)};
  dispatch_model_dtype(params.dtype,
                       [&]<typename T>() { launch<norm_kernel<T>>(shape, stream, params); });
}

}  // namespace phi3::cuda
