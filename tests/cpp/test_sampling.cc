// sample and logprobs on rows of equal logits, some of them spoilt.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "cpu/isa.h"
#include "ops/logprobs.h"
#include "ops/sample.h"
#include "tensors.h"

namespace ops = phi3::ops;
using phi3::test::is_close;
using phi3::test::kNan;
using phi3::test::Tensor;

TEST(sample_draws_what_top_p_keeps_and_fails_only_rows_without_a_choice) {
  for (const std::string& isa : phi3::cpu::available_isas()) {
    phi3::cpu::set_isa(isa);
    constexpr std::int64_t num_rows = 64, vocab = 1000;
    auto logits =
        Tensor<float>::filled({num_rows, vocab}, 0.0F);  // all equal: top_p keeps the first
    logits[1 * vocab + 999] = kNan;
    for (std::int64_t i = 0; i < vocab; ++i) logits[2 * vocab + i] = -INFINITY;
    logits[3 * vocab + 7] = INFINITY;
    const auto temperature = Tensor<float>::filled({num_rows}, 0.5F);
    const auto top_k = Tensor<std::int32_t>::filled({num_rows}, 0);
    const auto top_p = Tensor<float>::filled({num_rows}, 0.2F);
    Tensor<std::int64_t> seeds({num_rows});
    for (std::int64_t row = 0; row < num_rows; ++row) seeds[row] = -row;
    const auto zeros = Tensor<std::int32_t>::filled({num_rows}, 0);
    Tensor<std::int32_t> ids({num_rows});
    Tensor<float> logprobs({num_rows});
    ops::sample(logits, temperature, top_k, top_p, seeds, zeros, zeros, ids, logprobs);
    std::int64_t highest = 0;
    for (std::int64_t row = 0; row < num_rows; ++row) {
      if (row >= 1 && row <= 3) {
        EXPECT_EQ(ids[row], -1);
        EXPECT(std::isnan(logprobs[row]));
      } else {
        EXPECT(ids[row] >= 0 && ids[row] < 200);
        EXPECT(is_close(logprobs[row], -std::log(1000.0), 1e-5));
        highest = std::max<std::int64_t>(highest, ids[row]);
      }
    }
    EXPECT(highest > 150);  // 61 draws from 200
  }
}

TEST(logprobs_orders_the_top_and_fails_only_rows_without_a_distribution) {
  for (const std::string& isa : phi3::cpu::available_isas()) {
    phi3::cpu::set_isa(isa);
    constexpr std::int64_t num_rows = 64, vocab = 1000, k = 3;
    auto logits = Tensor<float>::filled({num_rows, vocab}, 0.0F);
    logits[1 * vocab + 999] = kNan;
    for (std::int64_t row = 2; row < num_rows; ++row) logits[row * vocab + 500 + row] = 1.0F;
    const auto token_ids = Tensor<std::int32_t>::filled({num_rows}, vocab - 1);
    Tensor<float> logprobs({num_rows});
    Tensor<std::int32_t> top_ids({num_rows, k});
    Tensor<float> top_logprobs({num_rows, k});
    ops::logprobs(logits, token_ids, logprobs, top_ids, top_logprobs);
    for (std::int64_t row = 0; row < num_rows; ++row) {
      const std::int32_t* top = &top_ids[row * k];
      if (row == 1) {
        EXPECT(std::isnan(logprobs[row]));
        for (std::int64_t i = 0; i < k; ++i) EXPECT_EQ(top[i], -1);
        continue;
      }
      const double total = row == 0 ? 1000.0 : 999.0 + std::exp(1.0);
      EXPECT(is_close(logprobs[row], -std::log(total), 1e-5));
      EXPECT_EQ(top[0], row == 0 ? 0 : 500 + row);
      EXPECT_EQ(top[1], row == 0 ? 1 : 0);
      EXPECT_EQ(top[2], row == 0 ? 2 : 1);
      EXPECT(is_close(top_logprobs[row * k], (row == 0 ? 0.0 : 1.0) - std::log(total), 1e-5));
    }
    const auto padding = Tensor<std::int32_t>::filled({num_rows}, vocab);
    EXPECT_ERROR(ops::logprobs(logits, padding, logprobs, top_ids, top_logprobs),
                 "logprobs: token_ids[0] is 1000, expected 0..999");
  }
}
