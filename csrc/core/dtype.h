// Element types a tensor may have, and bfloat16 arithmetic by conversion.
#pragma once

#include <bit>
#include <cstdint>

namespace phi3 {

enum class DType : std::uint8_t { kFloat32, kBFloat16, kInt8, kUInt8, kInt32, kInt64 };

struct BFloat16 {
  std::uint16_t bits;
};

constexpr std::int64_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kBFloat16:
      return 2;
    case DType::kInt8:
    case DType::kUInt8:
      return 1;
    case DType::kInt64:
      return 8;
  }
  return 0;
}

constexpr const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kInt8:
      return "int8";
    case DType::kUInt8:
      return "uint8";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
  }
  return "?";
}

constexpr float to_float(float value) { return value; }
constexpr float to_float(BFloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

template <typename T>
constexpr T from_float(float value);

template <>
constexpr float from_float<float>(float value) {
  return value;
}

// Round to nearest even; a NaN stays a (quiet) NaN.
template <>
constexpr BFloat16 from_float<BFloat16>(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) {
    return {static_cast<std::uint16_t>((bits >> 16) | 0x40U)};
  }
  return {static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16)};
}

}  // namespace phi3
