#include <cmath>
#include <limits>

#include "check.h"
#include "core/dtype.h"

using phi3::BFloat16;
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
