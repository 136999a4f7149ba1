// Which tokens of a row may be drawn: each filter tightens a bound, and keeps at least one.
//
// x = (logit - max) / temperature, so that a weight is exp(x), never normalized.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "cuda/logits_row.cuh"
#include "cuda/reduce.cuh"
#include "cuda/select.cuh"
#include "cuda/weights.cuh"

namespace phi3::cuda {

struct KeptTokens {
  WeightUnit unit;
  float max;
  float temperature;
  std::uint32_t lowest_order = 0;  // of the logit
  std::uint64_t lowest_place = 0;  // by weight, of equal weights the lower id above the higher
  float lightest = 0;
  float mean = 0;                                           // of x
  float farthest = std::numeric_limits<float>::infinity();  // of |x - mean|

  PHI3_DEVICE float x(float logit) const { return (logit - max) / temperature; }

  // 0 where the token is not kept.
  PHI3_DEVICE float weight(int id, float logit) const {
    if (order_of(logit) < lowest_order) return 0;
    const float weight = expf(x(logit));
    const bool is_kept = weight >= lightest &&
                         place_of(__float_as_uint(weight), id) >= lowest_place &&
                         fabsf(x(logit) - mean) <= farthest;
    return is_kept ? weight : 0;
  }

  PHI3_DEVICE std::uint64_t count(int id, float logit) const {
    return unit.count(weight(id, logit));
  }
};

PHI3_DEVICE std::uint64_t total_of(const LogitsRow& row,
                                   const KeptTokens& kept,
                                   SelectBlock& block) {
  std::uint64_t total = 0;
  row.for_each([&](int id, float logit) { total += kept.count(id, logit); });
  return reduce_block(total, block.partials, Plus{});
}

// What the weights of the tokens that a filter takes must reach.
PHI3_DEVICE std::uint64_t share_of(std::uint64_t total, float p) {
  const double share = ceil(static_cast<double>(p) * static_cast<double>(total));
  return std::max<std::uint64_t>(static_cast<std::uint64_t>(share), 1);
}

// Keeps the k largest logits and what equals the last of them. k = 0: all.
PHI3_DEVICE void keep_top_k(KeptTokens& kept,
                            const LogitsRow& row,
                            std::int32_t k,
                            SelectBlock& block) {
  if (k == 0 || k >= row.vocab_size()) return;
  const auto limit = static_cast<std::uint64_t>(k);
  const std::uint64_t low = low_place_of_top(row, limit, block);
  kept.lowest_order = order_of_place(select(row, ByLogit{}, limit, block, low));
}

struct ByWeight {
  const KeptTokens& kept;

  PHI3_DEVICE Ranked operator()(int id, float logit) const {
    const float weight = kept.weight(id, logit);
    const std::uint64_t count = kept.unit.count(weight);
    return {count == 0 ? 0 : place_of(__float_as_uint(weight), id), count};
  }
};

// Keeps the smallest set of most likely tokens whose weight reaches p of the total: a token stays
// when those before it weigh less than that. Among equal weights the lower id is the likelier.
PHI3_DEVICE void keep_top_p(KeptTokens& kept, const LogitsRow& row, float p, SelectBlock& block) {
  if (p >= 1) return;
  const std::uint64_t total = total_of(row, kept, block);
  const std::uint64_t limit = share_of(total, p);
  // Lighter tokens cannot stay: all of them together weigh less than what may be dropped. Half of
  // it, so that no rounding matters.
  const double lightest = 0.5 * kept.unit.weight(total - limit) / row.vocab_size();
  const std::uint64_t low = std::uint64_t{__float_as_uint(static_cast<float>(lightest))} << 32;
  kept.lowest_place = select(row, ByWeight{kept}, limit, block, low);
}

// Keeps what weighs at least p times as much as the heaviest token, whose weight is 1.
PHI3_DEVICE void keep_min_p(KeptTokens& kept, float p) { kept.lightest = p; }

struct ByTypicality {
  const KeptTokens& kept;
  float mean;

  PHI3_DEVICE Ranked operator()(int id, float logit) const {
    const std::uint64_t count = kept.count(id, logit);
    const float distance = fabsf(kept.x(logit) - mean);
    return {count == 0 ? 0 : place_of(order_of(-distance), id), count};
  }
};

// Locally typical sampling (Meister et al. 2022): takes tokens by how near their surprise -log p is
// to the entropy, until they weigh p of the total, and then what is as near as the last one taken.
// Surprise is log(total) - x and the entropy log(total) - mean(x): they are |x - mean(x)| apart.
PHI3_DEVICE void keep_typical_p(KeptTokens& kept,
                                const LogitsRow& row,
                                float p,
                                SelectBlock& block) {
  if (p >= 1) return;
  std::uint64_t sums[2] = {0, 0};  // of weights, of weight · -x, which is below 1 too
  row.for_each([&](int id, float logit) {
    const float weight = kept.weight(id, logit);
    if (weight == 0) return;
    sums[0] += kept.unit.count(weight);
    sums[1] += kept.unit.count(weight * -kept.x(logit));
  });
  reduce_block(sums, block.partials, Plus{});
  const double mean_distance = static_cast<double>(sums[1]) / static_cast<double>(sums[0]);
  const auto mean = static_cast<float>(-mean_distance);
  const std::uint64_t last = select(row, ByTypicality{kept, mean}, share_of(sums[0], p), block);
  kept.mean = mean;
  kept.farthest = -number_of(order_of_place(last));
}

}  // namespace phi3::cuda
