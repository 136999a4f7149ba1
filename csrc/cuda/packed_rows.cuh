// Rows of a packed weight in CUDA's layout (core/weight_format.h), and where they come from.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/check.h"
#include "core/params.h"
#include "cuda/ptx.h"

namespace phi3::cuda {

// A row's numbers are of T: float, BFloat16, or Float8, the only ones that have a scale.
template <typename T>
struct PackedRow {
  T* numbers;    // [cuda_columns(k)]
  float* scale;  // null unless the format is fp8
};

template <typename T>
PHI3_DEVICE PackedRow<T> packed_row(void* data,
                                    std::int64_t num_packed_rows,
                                    std::int64_t in_features,
                                    std::int64_t row) {
  const std::int64_t columns = cuda_columns(in_features);
  T* numbers = static_cast<T*>(data) + row * columns;
  if constexpr (sizeof(T) > 1) {
    return {numbers, nullptr};
  } else {
    auto* scales = static_cast<std::byte*>(data) + num_packed_rows * columns;
    return {numbers, reinterpret_cast<float*>(scales) + row};
  }
}

template <typename T>
PHI3_DEVICE PackedRow<const T> packed_row(const PackedWeight& weight, std::int64_t row) {
  const auto [numbers, scale] = packed_row<T>(
      const_cast<void*>(weight.data), weight.num_panels * kPanelRows, weight.in_features, row);
  return {numbers, scale};
}

// Which of `num_rows` rows a packed row holds; -1 for padding. The two factors of an activation are
// neighbours, and so are the two dims of a head that a rotation mixes, i and i + R/2.
PHI3_HOST_DEVICE std::int64_t source_row(PackedRows rows,
                                         const QkvRows& qkv,
                                         std::int64_t num_rows,
                                         std::int64_t packed) {
  if (packed >= num_rows) return -1;
  if (rows == PackedRows::kGateUp) return packed % 2 * (num_rows / 2) + packed / 2;
  if (rows == PackedRows::kQkv) {
    const std::int64_t head = packed / qkv.head_dim;
    const std::int64_t dim = packed % qkv.head_dim;
    if (head < qkv.num_rotated_heads && dim < qkv.rotary_dim) {
      return head * qkv.head_dim + dim % 2 * (qkv.rotary_dim / 2) + dim / 2;
    }
  }
  return packed;
}

// Calls fn.template operator()<float>(), <BFloat16>() or <Float8>().
template <typename Fn>
void dispatch_cuda_format(WeightFormat format, Fn&& fn) {
  switch (format) {
    case WeightFormat::kFloat32:
      return fn.template operator()<float>();
    case WeightFormat::kBFloat16:
      return fn.template operator()<BFloat16>();
    case WeightFormat::kFloat8:
      return fn.template operator()<Float8>();
    default:
      fail(std::source_location::current(),
           "format ",
           format_name(format),
           " is not supported on CUDA");
  }
}

}  // namespace phi3::cuda
