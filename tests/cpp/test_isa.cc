#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "check.h"
#include "cpu/isa.h"
#include "tensors.h"

using phi3::cpu::available_isas;
using phi3::cpu::kernels;
using phi3::cpu::Kernels;
using phi3::cpu::set_isa;

TEST(isa_takes_the_one_the_environment_names_at_first_use) {
  setenv("PHI3SVC_CPU_ISA", "mmx", 1);
  EXPECT_ERROR(kernels(),
               "PHI3SVC_CPU_ISA is 'mmx', which this build or CPU lacks; available: portable");
  setenv("PHI3SVC_CPU_ISA", "portable", 1);
  EXPECT_EQ(std::string(kernels().name), std::string("portable"));
  unsetenv("PHI3SVC_CPU_ISA");
}

TEST(isa_can_be_set_to_each_available_one_and_no_other) {
  EXPECT_EQ(available_isas().front(), std::string("portable"));
  for (const std::string& name : available_isas()) {
    set_isa(name);
    EXPECT_EQ(std::string(kernels().name), name);
  }
  EXPECT_ERROR(set_isa("Portable"), "isa is 'Portable'");
}

TEST(exp_is_accurate_and_has_the_edges_that_softmax_needs) {
  for (const std::string& name : available_isas()) {
    set_isa(name);
    const Kernels& isa = kernels();
    double worst = 0;
    for (float x = -87.3F; x < 88.2F; x += 0.0137F) {
      const double exact = std::exp(double{x});
      worst = std::max(worst, std::abs(isa.exp(x) - exact) / exact);
    }
    EXPECT(worst < 2e-7);
    EXPECT_EQ(isa.exp(0.0F), 1.0F);
    EXPECT_EQ(isa.exp(-INFINITY), 0.0F);
    EXPECT_EQ(isa.exp(-88.0F), 0.0F);
    EXPECT(std::isfinite(isa.exp(INFINITY)));
    EXPECT(std::isnan(isa.exp(NAN)));
  }
}

TEST(max_finds_a_nan_wherever_it_is) {
  for (const std::string& name : available_isas()) {
    set_isa(name);
    for (int count = 1; count < 40; ++count) {
      std::vector<float> values(static_cast<std::size_t>(count));
      for (int i = 0; i < count; ++i)
        values[static_cast<std::size_t>(i)] = static_cast<float>(-i - 1);
      EXPECT_EQ(kernels().max(values.data(), count), -1.0F);
      values.back() = 7.0F;
      EXPECT_EQ(kernels().max(values.data(), count), 7.0F);
      values[static_cast<std::size_t>(count / 2)] = NAN;
      EXPECT(std::isnan(kernels().max(values.data(), count)));
    }
  }
}

TEST(exp_sum_keeps_many_small_weights_beside_a_large_one) {
  for (const std::string& name : available_isas()) {
    set_isa(name);
    std::vector<float> logits(32064, -13.0F);
    logits[5] = 0.0F;
    const double sum = kernels().exp_sum(logits.data(), 0.0F, 1.0F, nullptr, std::ssize(logits));
    EXPECT(std::abs(sum - (1.0 + 32063 * std::exp(-13.0))) < 1e-6);
  }
}
