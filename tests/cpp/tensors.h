// Owning tensors for tests, and the random numbers to fill them with.
#pragma once

#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <random>
#include <vector>

#include "core/tensor_view.h"

namespace phi3::test {

template <typename T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::kFloat32;
}
template <>
constexpr DType dtype_of<BFloat16>() {
  return DType::kBFloat16;
}
template <>
constexpr DType dtype_of<std::int8_t>() {
  return DType::kInt8;
}
template <>
constexpr DType dtype_of<std::uint8_t>() {
  return DType::kUInt8;
}
template <>
constexpr DType dtype_of<std::int32_t>() {
  return DType::kInt32;
}
template <>
constexpr DType dtype_of<std::int64_t>() {
  return DType::kInt64;
}

// Exactly as many bytes as the shape needs, so that AddressSanitizer sees one too many.
template <typename T>
class Tensor {
 public:
  Tensor(std::initializer_list<std::int64_t> sizes) {
    view_.rank = static_cast<int>(sizes.size());
    view_.dtype = dtype_of<T>();
    std::int64_t count = 1;
    int dim = view_.rank;
    for (auto size = sizes.end(); size != sizes.begin();) {
      --size;
      --dim;
      view_.sizes[static_cast<std::size_t>(dim)] = *size;
      view_.strides[static_cast<std::size_t>(dim)] = count;
      count *= *size;
    }
    values_.resize(static_cast<std::size_t>(count));
    view_.data = values_.data();
  }

  Tensor(std::initializer_list<std::int64_t> sizes, const std::vector<T>& values) : Tensor(sizes) {
    std::copy(values.begin(), values.end(), values_.begin());
  }

  // As the constructor of sizes, filled with normally distributed numbers.
  static Tensor random(std::initializer_list<std::int64_t> sizes, std::mt19937& generator) {
    Tensor tensor(sizes);
    std::normal_distribution<float> normal;
    for (T& value : tensor.values_) value = from_float<T>(normal(generator));
    return tensor;
  }

  static Tensor filled(std::initializer_list<std::int64_t> sizes, T value) {
    Tensor tensor(sizes);
    for (T& element : tensor.values_) element = value;
    return tensor;
  }

  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  Tensor(Tensor&&) = default;

  operator const TensorView&() const { return view_; }  // NOLINT: a tensor is used as its view
  const TensorView& view() const { return view_; }
  T& operator[](std::int64_t idx) { return values_[static_cast<std::size_t>(idx)]; }
  const T& operator[](std::int64_t idx) const { return values_[static_cast<std::size_t>(idx)]; }
  std::int64_t size() const { return static_cast<std::int64_t>(values_.size()); }
  const std::vector<T>& values() const { return values_; }

 private:
  std::vector<T> values_;
  TensorView view_;
};

template <typename T>
bool has_equal_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

inline bool is_close(double actual, double expected, double tolerance) {
  return std::abs(actual - expected) <= tolerance * (1 + std::abs(expected));
}

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

}  // namespace phi3::test
