#include <cmath>
#include <limits>

#include "check.h"
#include "core/dtype.h"

using phi3::BFloat16;
using phi3::Float8;
using phi3::from_float;
using phi3::to_float;

namespace {

std::uint16_t rounded(float value) { return from_float<BFloat16>(value).bits; }

}  // namespace

TEST(bfloat16_survives_the_way_to_float_and_back) {
  for (std::uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const BFloat16 value{static_cast<std::uint16_t>(bits)};
    if (std::isnan(to_float(value))) continue;
    if (from_float<BFloat16>(to_float(value)).bits != value.bits) {
      EXPECT_EQ(from_float<BFloat16>(to_float(value)).bits, value.bits);
    }
  }
}

TEST(bfloat16_rounds_ties_to_even) {
  EXPECT_EQ(rounded(1.0F + 0x1p-8F), 0x3f80);      // halfway between 0x3f80 and 0x3f81
  EXPECT_EQ(rounded(1.0F + 3 * 0x1p-8F), 0x3f82);  // halfway between 0x3f81 and 0x3f82
  EXPECT_EQ(rounded(1.0F + 0x1.02p-8F), 0x3f81);   // just above halfway
}

TEST(bfloat16_overflows_to_infinity_and_keeps_nan) {
  EXPECT_EQ(rounded(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(rounded(-std::numeric_limits<float>::infinity()), 0xff80);
  EXPECT(std::isnan(to_float(from_float<BFloat16>(std::bit_cast<float>(0x7f800001U)))));
}

TEST(float8_survives_the_way_to_float_and_back) {
  for (std::uint32_t bits = 0; bits <= 0xff; ++bits) {
    const Float8 value{static_cast<std::uint8_t>(bits)};
    const bool is_nan = (bits & 0x7f) == 0x7f;
    EXPECT_EQ(std::isnan(to_float(value)), is_nan);
    EXPECT_EQ(from_float<Float8>(to_float(value)).bits, value.bits);
  }
}

TEST(float8_is_a_sign_four_bits_of_exponent_and_three_of_mantissa) {
  for (int bits = 0; bits < 0x7f; ++bits) {
    const int exponent = bits >> 3;
    const auto mantissa = static_cast<float>(bits & 7);
    const float expected =
        exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8.0F + mantissa, exponent - 10);
    EXPECT_EQ(to_float(Float8{static_cast<std::uint8_t>(bits)}), expected);
    EXPECT_EQ(to_float(Float8{static_cast<std::uint8_t>(bits | 0x80)}), -expected);
  }
}

TEST(float8_rounds_to_nearest_and_ties_to_even) {
  for (int bits = 0; bits < 0x7e; ++bits) {
    const float low = to_float(Float8{static_cast<std::uint8_t>(bits)});
    const float high = to_float(Float8{static_cast<std::uint8_t>(bits + 1)});
    const float middle = low + (high - low) / 2;  // exact
    EXPECT_EQ(from_float<Float8>(middle).bits, bits + (bits & 1));
    EXPECT_EQ(from_float<Float8>(std::nextafter(middle, 0.0F)).bits, bits);
    EXPECT_EQ(from_float<Float8>(std::nextafter(middle, 1e9F)).bits, bits + 1);
    EXPECT_EQ(from_float<Float8>(-middle).bits, (bits + (bits & 1)) | 0x80);
  }
}

TEST(float8_saturates_and_keeps_nan) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(to_float(from_float<Float8>(1e9F)), phi3::kMaxFloat8);
  EXPECT_EQ(to_float(from_float<Float8>(-infinity)), -phi3::kMaxFloat8);
  EXPECT_EQ(to_float(from_float<Float8>(464.5F)), phi3::kMaxFloat8);
  EXPECT(std::isnan(to_float(from_float<Float8>(std::bit_cast<float>(0xff800001U)))));
}
