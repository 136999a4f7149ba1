// Log-probabilities of a row of logits: the same bits in every op that reports them.
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/kernels/kernels.h"

namespace phi3::cpu {

class LogSoftmax {
 public:
  // logits: [V]; max: the largest of them, finite.
  LogSoftmax(const Kernels& isa, const float* logits, float max, std::int64_t vocab_size)
      : max_(max), log_sum_(std::log(isa.exp_sum(logits, max, 1.0F, nullptr, vocab_size))) {}

  // Of a token by its logit; -inf stays -inf.
  float operator()(float logit) const {
    return static_cast<float>(double{logit} - max_ - log_sum_);
  }

 private:
  double max_;
  double log_sum_;
};

}  // namespace phi3::cpu
