// Element types a tensor may have, and arithmetic on the narrow ones by conversion.
#pragma once

#include <bit>
#include <cstdint>

namespace phi3 {

enum class DType : std::uint8_t { kFloat32, kBFloat16, kFloat8, kInt8, kUInt8, kInt32, kInt64 };

struct BFloat16 {
  std::uint16_t bits;
};

// E4M3 without infinities (Micikevicius et al. 2022, arXiv 2209.05433): up to ±448, 0x7f is NaN.
struct Float8 {
  std::uint8_t bits;
};

inline constexpr float kMaxFloat8 = 448.0F;

constexpr std::int64_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kBFloat16:
      return 2;
    case DType::kFloat8:
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
    case DType::kFloat8:
      return "float8_e4m3fn";
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

// Exact.
constexpr float to_float(Float8 value) {
  const std::uint32_t sign = (value.bits & 0x80U) << 24;
  const std::uint32_t magnitude = value.bits & 0x7fU;
  if (magnitude == 0x7fU) return std::bit_cast<float>(sign | 0x7fc00000U);
  // Below 8 the exponent field is 0: multiples of 2^-9.
  if (magnitude < 8U) {
    const float tiny = static_cast<float>(magnitude) * 0x1p-9F;
    return sign != 0 ? -tiny : tiny;
  }
  return std::bit_cast<float>(sign | ((magnitude << 20) + (120U << 23)));
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

// Round to nearest even; what is beyond ±448, infinity too, becomes ±448; a NaN stays one.
template <>
constexpr Float8 from_float<Float8>(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 24) & 0x80U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return {static_cast<std::uint8_t>(sign | 0x7fU)};
  if (magnitude >= 0x43e00000U) return {static_cast<std::uint8_t>(sign | 0x7eU)};
  if (magnitude < 0x3c800000U) {  // below 2^-6: added to 2^14, a float32 has steps of 2^-9
    const float stepped = std::bit_cast<float>(magnitude) + 0x1p14F;
    const std::uint32_t steps = std::bit_cast<std::uint32_t>(stepped) - 0x46800000U;
    return {static_cast<std::uint8_t>(sign | steps)};
  }
  const std::uint32_t rounded = magnitude + 0x7ffffU + ((magnitude >> 20) & 1U);
  return {static_cast<std::uint8_t>(sign | ((rounded >> 20) - (120U << 3)))};
}

}  // namespace phi3
