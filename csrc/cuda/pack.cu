// Weights into CUDA's layout and back: a block per packed row.
#include <algorithm>
#include <cfloat>
#include <cstdint>
#include <limits>

#include "core/dispatch.h"
#include "cuda/cuda.h"
#include "cuda/launch.h"
#include "cuda/packed_rows.cuh"
#include "cuda/reduce.cuh"

namespace phi3::cuda {
namespace {

constexpr std::int64_t kMaxThreads = 256;

struct PackBlock {
  std::uint32_t largest[kMaxWarps];
  float sums[2 * kMaxWarps];
};

// What a thread of a block does for all columns that are its own.
template <typename Fn>
PHI3_DEVICE void for_each_column(std::int64_t num_columns, Fn fn) {
  for (std::int64_t col = threadIdx.x; col < num_columns; col += blockDim.x) fn(col);
}

// The row of the weight that a block packs; nothing of padding.
template <typename T>
struct SourceRow {
  const T* numbers;
  std::int64_t idx;  // -1: padding
  std::int64_t num_columns;

  PHI3_DEVICE SourceRow(const PackParams& p, std::int64_t packed)
      : numbers(nullptr), idx(source_row(p.rows, p.qkv, p.num_rows, packed)), num_columns(0) {
    if (idx < 0) return;
    numbers = static_cast<const T*>(p.weight) + idx * p.weight_stride;
    num_columns = p.in_features;
  }

  PHI3_DEVICE T operator()(std::int64_t col) const {
    return col < num_columns ? numbers[col] : from_float<T>(0);
  }
};

template <typename T>
__global__ void __launch_bounds__(kMaxThreads) pack_kernel(PackParams p) {
  const SourceRow<T> source(p, blockIdx.x);
  T* out = packed_row<T>(p.out, gridDim.x, p.in_features, blockIdx.x).numbers;
  for_each_column(cuda_columns(p.in_features), [&](std::int64_t col) { out[col] = source(col); });
}

// The root mean square of what the stored numbers differ by, over the mean magnitude; both in units
// of the scale.
PHI3_DEVICE float relative_error(float squares, float magnitudes, std::int64_t num_columns) {
  const auto count = static_cast<float>(num_columns);
  const float error = sqrtf(squares / count);
  return error == 0.0F ? 0.0F : error / (magnitudes / count);
}

// A row with a number that is not finite gets the scale NaN and numbers of 0.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads) pack_float8_kernel(PackParams p) {
  auto& block = *reinterpret_cast<PackBlock*>(shared_memory());
  const SourceRow<T> source(p, blockIdx.x);
  std::uint32_t largest = 0;  // bits: those of magnitudes are in the same order, NaN the largest
  for_each_column(source.num_columns, [&](std::int64_t col) {
    largest = std::max(largest, __float_as_uint(to_float(source(col))) & 0x7fffffffU);
  });
  largest = reduce_block(largest, block.largest, Largest{});
  const bool is_finite = largest < 0x7f800000U;
  // No smaller than this, so that dividing by it loses nothing.
  const float scale = std::max(__uint_as_float(largest) / kMaxFloat8, FLT_MIN);

  const auto [numbers, stored_scale] =
      packed_row<Float8>(p.out, gridDim.x, p.in_features, blockIdx.x);
  float sums[2] = {0, 0};  // of squared errors, of magnitudes
  for_each_column(cuda_columns(p.in_features), [&](std::int64_t col) {
    const float number = is_finite ? to_float(source(col)) / scale : 0.0F;
    numbers[col] = from_float<Float8>(number);
    const float error = number - to_float(numbers[col]);
    sums[0] = fmaf(error, error, sums[0]);
    sums[1] += fabsf(number);
  });
  reduce_block(sums, block.sums, Plus{});
  if (threadIdx.x != 0) return;
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  *stored_scale = is_finite ? scale : kNan;
  if (p.row_errors == nullptr || source.idx < 0) return;
  p.row_errors[source.idx] = is_finite ? relative_error(sums[0], sums[1], p.in_features) : kNan;
}

template <typename T>
__global__ void __launch_bounds__(kMaxThreads) unpack_kernel(UnpackParams p) {
  const std::int64_t row = source_row(p.rows, {}, p.num_rows, blockIdx.x);
  if (row < 0) return;
  const auto [numbers, stored_scale] = packed_row<T>(p.weight, blockIdx.x);
  const float scale = stored_scale == nullptr ? 1.0F : *stored_scale;
  const std::int64_t k = p.weight.in_features;
  for_each_column(k,
                  [&](std::int64_t col) { p.out[row * k + col] = to_float(numbers[col]) * scale; });
}

LaunchShape shape_for(std::int64_t num_packed_rows, std::int64_t in_features) {
  const std::int64_t threads = std::min(round_up(in_features, kWarpSize), kMaxThreads);
  return {.grid = dim3(static_cast<unsigned>(num_packed_rows)),
          .threads = static_cast<unsigned>(threads),
          .shared_bytes = sizeof(PackBlock)};
}

}  // namespace

void pack(const PackParams& params, Stream stream) {
  const LaunchShape shape = shape_for(cuda_rows(params.num_rows), params.in_features);
  dispatch_model_dtype(params.dtype, [&]<typename T>() {
    if (params.format == WeightFormat::kFloat8) {
      launch<pack_float8_kernel<T>>(shape, stream, params);
    } else {
      launch<pack_kernel<T>>(shape, stream, params);
    }
  });
}

void unpack(const UnpackParams& params, Stream stream) {
  const LaunchShape shape =
      shape_for(params.weight.num_panels * kPanelRows, params.weight.in_features);
  dispatch_cuda_format(params.weight.format,
                       [&]<typename T>() { launch<unpack_kernel<T>>(shape, stream, params); });
}

void quantize(const QuantizeParams&, Stream) {
  fail(std::source_location::current(), "quantize: int8 rows are not supported on CUDA");
}

}  // namespace phi3::cuda
