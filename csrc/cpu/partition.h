// Cutting work into parts, and stepping through untyped memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace phi3::cpu {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Cuts `size` into `num_parts` as even as possible; part `idx` starts here.
constexpr std::int64_t even_part(std::int64_t size, std::int64_t num_parts, std::int64_t idx) {
  return size * idx / num_parts;
}

// `elements` further than `base`, for an untyped pointer to model-dtype elements.
inline const void* offset(const void* base, DType dtype, std::int64_t elements) {
  return static_cast<const std::byte*>(base) + elements * dtype_size(dtype);
}
inline void* offset(void* base, DType dtype, std::int64_t elements) {
  return static_cast<std::byte*>(base) + elements * dtype_size(dtype);
}

}  // namespace phi3::cpu
