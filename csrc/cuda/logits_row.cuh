// A row of logits, walked by a block, and the order of its tokens.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "cuda/four.cuh"
#include "cuda/reduce.cuh"

namespace phi3::cuda {

inline constexpr int kMaxRowThreads = 1024;

// Of a block that walks a row.
inline unsigned row_threads(std::int64_t vocab_size) {
  const auto wanted = static_cast<std::uint64_t>(vocab_size + 31) / 32;
  return static_cast<unsigned>(
      std::clamp<std::uint64_t>(std::bit_ceil(wanted), kWarpSize, kMaxRowThreads));
}

class LogitsRow {
 public:
  PHI3_DEVICE LogitsRow(const float* logits, std::int64_t vocab_size)
      : logits_(logits), fours_(logits, vocab_size), vocab_size_(static_cast<int>(vocab_size)) {}

  PHI3_DEVICE int vocab_size() const { return vocab_size_; }
  PHI3_DEVICE float operator[](int id) const { return logits_[id]; }

  // fn(id, logit) for every token, by rising id those of one thread. Which thread has which is of
  // no consequence: what is made of all of them must not depend on the order.
  template <typename Fn>
  PHI3_DEVICE void for_each(Fn fn) const {
    fours_.for_each_four([&](int four) {
      const Four<float> logits = fours_.load(four);
      for (int i = 0; i < 4; ++i) {
        if (fours_.has(four, i)) fn(4 * four + i, logits.at[i]);
      }
    });
  }

 private:
  const float* logits_;
  FourRow<const float> fours_;
  int vocab_size_;
};

// Numbers as unsigned ones of the same order: both zeros alike, NaN above all.
PHI3_DEVICE std::uint32_t order_of(float x) {
  if (x != x) return 0xffffffffU;
  const std::uint32_t bits = __float_as_uint(x + 0.0F);  // of -0 it makes 0
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
PHI3_DEVICE float number_of(std::uint32_t order) {
  return __uint_as_float((order & 0x80000000U) != 0 ? order & 0x7fffffffU : ~order);
}

inline constexpr std::uint32_t kOrderOfInfinity = 0xff800000U;
inline constexpr std::uint32_t kOrderOfMinusInfinity = 0x007fffffU;

// Where a token stands among the others of its row, by rising order, of equal ones the lower id
// above the higher. No two are equal and none is 0.
PHI3_DEVICE std::uint64_t place_of(std::uint32_t order, int id) {
  return std::uint64_t{order} << 32 | ~static_cast<std::uint32_t>(id);
}
PHI3_DEVICE std::uint32_t order_of_place(std::uint64_t place) {
  return static_cast<std::uint32_t>(place >> 32);
}
PHI3_DEVICE int id_of_place(std::uint64_t place) {
  return static_cast<int>(~static_cast<std::uint32_t>(place));
}

// The largest of the places of a thread's own tokens, 0 if it has none.
PHI3_DEVICE std::uint64_t best_of_thread(const LogitsRow& row) {
  std::uint32_t best = 0;
  int best_id = -1;
  row.for_each([&](int id, float logit) {
    const std::uint32_t order = order_of(logit);
    if (order <= best) return;
    best = order;
    best_id = id;
  });
  return best_id < 0 ? 0 : place_of(best, best_id);
}

// The place of the largest logit. partials: [kMaxWarps]
PHI3_DEVICE std::uint64_t best_of_row(const LogitsRow& row, std::uint64_t* partials) {
  return reduce_block(best_of_thread(row), partials, Largest{});
}

// Whether a row with this best place can be drawn from: without NaN and +inf, and not all -inf.
PHI3_DEVICE bool is_sound(std::uint64_t best) {
  const std::uint32_t order = order_of_place(best);
  return order > kOrderOfMinusInfinity && order < kOrderOfInfinity;
}

}  // namespace phi3::cuda
