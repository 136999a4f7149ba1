// Weights of tokens as whole numbers, and log-probabilities from their sum.
#pragma once

#include <cstdint>

#include "cuda/logits_row.cuh"
#include "cuda/reduce.cuh"

namespace phi3::cuda {

// A weight from 0 to 1 counted in the smallest unit for which the weights of a whole vocabulary add
// up below 2^63. A sum of them has the same bits in any order, so threads may share it out as they
// like; what a weight loses is less than 2^-45 for vocabularies below 262,144.
class WeightUnit {
 public:
  PHI3_DEVICE explicit WeightUnit(int vocab_size) {
    one_ = static_cast<float>(std::uint64_t{1} << (31 + __clz(vocab_size)));
  }

  PHI3_DEVICE std::uint64_t count(float weight) const {
    return static_cast<std::uint64_t>(weight * one_);
  }
  PHI3_DEVICE double weight(std::uint64_t count) const {
    return static_cast<double>(count) / static_cast<double>(one_);
  }

 private:
  float one_;  // a power of two
};

// Log-probabilities of a row: the same bits in every op that reports them.
class LogSoftmax {
 public:
  // max: the largest logit, finite. partials: [kMaxWarps]
  PHI3_DEVICE LogSoftmax(const LogitsRow& row, float max, std::uint64_t* partials)
      : max_(max), unit_(row.vocab_size()), total_(0) {
    std::uint64_t total = 0;
    row.for_each([&](int, float logit) { total += unit_.count(expf(logit - max)); });
    total_ = reduce_block(total, partials, Plus{});
  }

  // Of a token by its logit; -inf stays -inf.
  PHI3_DEVICE float operator()(float logit) const {
    return static_cast<float>(static_cast<double>(logit) - static_cast<double>(max_) -
                              log(unit_.weight(total_)));
  }

 private:
  float max_;
  WeightUnit unit_;
  std::uint64_t total_;
};

}  // namespace phi3::cuda
