// The multiply-add of CPUs without such an instruction against std::fma, bit by bit.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"

#undef __FP_FAST_FMAF  // an architecture that has the instruction shall run the other way here too
#define PHI3_ISA portable_fma
#include "cpu/kernels/vec_portable.h"

namespace kernels = phi3::cpu::portable_fma;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kSmallest = std::numeric_limits<float>::min();
constexpr float kSubnormal = std::numeric_limits<float>::denorm_min();

struct Terms {
  float a, b, c;
};

bool is_same(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) ||
         std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

// Sixteen at a time, as the kernels do.
void check(const std::vector<Terms>& all) {
  for (std::size_t first = 0; first < all.size(); first += 16) {
    float a[16] = {};
    float b[16] = {};
    float c[16] = {};
    const std::size_t count = std::min<std::size_t>(16, all.size() - first);
    for (std::size_t i = 0; i < count; ++i) {
      a[i] = all[first + i].a;
      b[i] = all[first + i].b;
      c[i] = all[first + i].c;
    }
    float out[16];
    kernels::store(out, kernels::fma(kernels::load(a), kernels::load(b), kernels::load(c)));
    for (std::size_t i = 0; i < count; ++i) {
      const float expected = std::fma(a[i], b[i], c[i]);
      if (is_same(out[i], expected)) continue;
      std::ostringstream what;
      what << std::hexfloat << "fma(" << a[i] << ", " << b[i] << ", " << c[i] << ") is " << out[i]
           << ", expected " << expected;
      phi3::test::report(__FILE__, __LINE__, what.str());
      return;
    }
  }
}

class Numbers {
 public:
  // Any bits: all exponents alike, subnormals, infinities and NaN among them.
  float any() { return std::bit_cast<float>(static_cast<std::uint32_t>(generator_())); }
  // Of any sign and significand, near 2^exponent.
  float near(int exponent) {
    const auto bits = static_cast<std::uint32_t>(generator_());
    const float significand = std::bit_cast<float>((bits & 0x007fffffU) | 0x3f800000U);
    return std::ldexp((bits >> 31) != 0 ? -significand : significand, exponent);
  }
  // As `near`, with its last bits zero: products and sums of such are often exact, or ties.
  float short_near(int exponent, int num_bits) {
    const auto bits = std::bit_cast<std::uint32_t>(near(exponent));
    return std::bit_cast<float>(bits & ~((1U << (24 - num_bits)) - 1));
  }
  int between(int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(generator_);
  }

 private:
  std::mt19937 generator_{1};
};

constexpr int kCount = 1 << 19;

template <typename Make>
void check_many(Make make) {
  std::vector<Terms> all;
  all.reserve(kCount);
  for (int i = 0; i < kCount; ++i) all.push_back(make());
  check(all);
}

}  // namespace

TEST(any_bits) {
  Numbers numbers;
  check_many([&] { return Terms{numbers.any(), numbers.any(), numbers.any()}; });
}

TEST(sums_of_any_distance) {
  Numbers numbers;
  check_many([&] {
    return Terms{numbers.near(0), numbers.near(0), numbers.near(numbers.between(-60, 60))};
  });
}

TEST(ties_and_exact_sums) {
  Numbers numbers;
  check_many([&] {
    const int num_bits = numbers.between(1, 14);
    return Terms{numbers.short_near(0, num_bits),
                 numbers.short_near(0, num_bits),
                 numbers.short_near(numbers.between(-30, 30), numbers.between(1, 24))};
  });
}

// A sum a little beside the middle of two floats, where rounding it to double first would make it
// the middle.
TEST(double_rounding) {
  Numbers numbers;
  check_many([&] {
    const float c = numbers.near(0);
    const float half = std::ldexp(1.0F, -24) * (numbers.between(0, 1) != 0 ? 1.0F : -1.0F);
    // half · (1 + tiny) with the tiny part below the last bit of a double next to c
    const float little = std::ldexp(1.0F, -numbers.between(12, 23));
    return Terms{half * (1 + little), 1 - little, c};
  });
  check({{0x1p-12F, 0x1.000002p-12F, 1.0F}, {0x1p-40F, 0x1p-40F, 0x1.000001p0F}});
}

TEST(cancellation) {
  Numbers numbers;
  check_many([&] {
    const float a = numbers.near(0);
    const float b = numbers.near(0);
    return Terms{a, b, -(a * b)};
  });
}

TEST(subnormal_results) {
  Numbers numbers;
  check_many([&] {
    const int exponent = numbers.between(-155, -120);
    return Terms{numbers.near(exponent / 2),
                 numbers.near(exponent - exponent / 2),
                 numbers.near(numbers.between(-155, -120))};
  });
}

TEST(overflow) {
  Numbers numbers;
  check_many([&] {
    const int exponent = numbers.between(120, 128);
    return Terms{numbers.near(exponent / 2),
                 numbers.near(exponent - exponent / 2),
                 numbers.near(numbers.between(100, 127))};
  });
  check(
      {{kLargest, 1.0F, 0x1p103F}, {kLargest, 1.0F, 0x1.fffffep102F}, {kLargest, 2.0F, -kLargest}});
}

// Each result goes on unrounded if a compiler takes a rounding away.
TEST(chains) {
  Numbers numbers;
  constexpr float kFactors[] = {0x1.a0d2cp-13F, 0x1.6e879cp-10F, 0x1.111210p-7F, 0x1.55554ep-5F};
  for (int round = 0; round < (1 << 14); ++round) {
    float x[16];
    float out[16];
    for (float& value : x) value = numbers.near(numbers.between(-4, 0));
    kernels::F chain = kernels::set1(kFactors[0]);
    chain = kernels::fma(chain, kernels::load(x), kernels::set1(kFactors[1]));
    chain = kernels::fma(chain, kernels::load(x), kernels::set1(kFactors[2]));
    chain = kernels::fma(chain, kernels::load(x), kernels::set1(kFactors[3]));
    kernels::store(out, chain);
    for (int i = 0; i < 16; ++i) {
      float expected = kFactors[0];
      for (int term = 1; term < 4; ++term) expected = std::fma(expected, x[i], kFactors[term]);
      if (!is_same(out[i], expected)) EXPECT_EQ(out[i], expected);
    }
  }
}

TEST(special_numbers) {
  std::vector<float> special = {0.0F, 1.0F, 3.0F, kInfinity, kLargest, kSmallest, kSubnormal, NAN};
  for (const float x : std::vector<float>(special)) special.push_back(-x);
  std::vector<Terms> all;
  for (const float a : special) {
    for (const float b : special) {
      for (const float c : special) all.push_back({a, b, c});
    }
  }
  check(all);
}
