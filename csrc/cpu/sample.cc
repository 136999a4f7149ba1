// Sampling without state: the token of a row is a function of its logits, its settings and (seed, sequence, position).
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "core/check.h"
#include "cpu/cpu.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/philox.h"

namespace phi3::cpu {
namespace {

void check_settings(const SampleParams& params) {
  for (std::int64_t i = 0; i < params.num_rows; ++i) {
    PHI3_CHECK(std::isfinite(params.temperature[i]) && params.temperature[i] >= 0,
               "sample: temperature[", i, "] is ", params.temperature[i],
               ", expected a finite number of at least 0");
    PHI3_CHECK(params.top_k[i] >= 0, "sample: top_k[", i, "] is ", params.top_k[i],
               ", expected at least 0");
    PHI3_CHECK(params.top_p[i] > 0 && params.top_p[i] <= 1, "sample: top_p[", i, "] is ",
               params.top_p[i], ", expected more than 0 and at most 1");
    PHI3_CHECK(params.sequence_indices[i] >= 0, "sample: sequence_indices[", i, "] is ",
               params.sequence_indices[i], ", expected at least 0");
    PHI3_CHECK(params.positions[i] >= 0, "sample: positions[", i, "] is ", params.positions[i],
               ", expected at least 0");
  }
}

// Uniform in [0, 1), a multiple of 2^-24.
double uniform(const SampleParams& params, std::int64_t row) {
  const auto seed = static_cast<std::uint64_t>(params.seeds[row]);
  const PhiloxCounter counter = {static_cast<std::uint32_t>(params.positions[row]),
                                 static_cast<std::uint32_t>(params.sequence_indices[row]), 0, 0};
  const PhiloxKey key = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  return static_cast<double>(philox(counter, key)[0] >> 8) * 0x1p-24;
}

// Reused between rows and calls of a thread.
struct Scratch {
  std::vector<float> weights;
  std::vector<float> sorted;
  std::vector<std::pair<float, std::int32_t>> candidates;
};

// Zeroes the weight of every logit below the k-th largest; ties with it stay.
void keep_top_k(Scratch& scratch, const float* logits, std::int64_t k) {
  std::vector<float>& weights = scratch.weights;
  if (k <= 0 || k >= std::ssize(weights)) return;
  scratch.sorted.assign(logits, logits + weights.size());
  const auto kth = scratch.sorted.begin() + (k - 1);
  std::nth_element(scratch.sorted.begin(), kth, scratch.sorted.end(), std::greater<>());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (logits[i] < *kth) weights[i] = 0;
  }
}

// Keeps the smallest set of most likely tokens whose weight reaches p of the total; a token stays when those before it
// weigh less than that. Among equal weights the lower index is the likelier. At least one stays.
void keep_top_p(Scratch& scratch, float p) {
  if (p >= 1) return;
  std::vector<float>& weights = scratch.weights;
  auto& candidates = scratch.candidates;
  candidates.clear();
  double total = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    total += weights[i];
    if (weights[i] > 0) candidates.emplace_back(weights[i], static_cast<std::int32_t>(i));
  }
  const auto is_likelier = [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  // The set is small as a rule: sort only as much of the head as is needed.
  const double limit = double{p} * total;
  double before = 0;
  std::size_t kept = 0;
  std::size_t sorted = 0;
  for (; kept < candidates.size(); ++kept) {
    if (kept == sorted) {
      sorted = std::min(candidates.size(), std::max<std::size_t>(64, 8 * sorted));
      std::partial_sort(candidates.begin() + static_cast<std::ptrdiff_t>(kept),
                        candidates.begin() + static_cast<std::ptrdiff_t>(sorted), candidates.end(),
                        is_likelier);
    }
    if (kept > 0 && before >= limit) break;
    before += candidates[kept].first;
  }
  for (; kept < candidates.size(); ++kept) {
    weights[static_cast<std::size_t>(candidates[kept].second)] = 0;
  }
}

// First token whose cumulative weight exceeds u of the total.
std::int64_t draw(const std::vector<float>& weights, double u) {
  double total = 0;
  for (const float weight : weights) total += weight;
  const double threshold = u * total;
  double cumulative = 0;
  std::int64_t last = 0;
  for (std::int64_t i = 0; i < std::ssize(weights); ++i) {
    const float weight = weights[static_cast<std::size_t>(i)];
    if (weight == 0) continue;
    cumulative += weight;
    last = i;
    if (cumulative > threshold) break;
  }
  return last;
}

void sample_row(const Kernels& isa, const SampleParams& params, std::int64_t row) {
  const float* logits = params.logits + row * params.logits_stride;
  const float max = isa.max(logits, params.vocab_size);
  if (!std::isfinite(max)) {  // NaN somewhere, +inf, or nothing above -inf: this row alone fails
    params.out_ids[row] = -1;
    params.out_logprobs[row] = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  std::int64_t token = 0;
  if (params.temperature[row] == 0) {
    token = std::find(logits, logits + params.vocab_size, max) - logits;
  } else {
    thread_local Scratch scratch;
    scratch.weights.resize(static_cast<std::size_t>(params.vocab_size));
    isa.exp_sum(logits, max, params.temperature[row], scratch.weights.data(), params.vocab_size);
    keep_top_k(scratch, logits, params.top_k[row]);
    keep_top_p(scratch, params.top_p[row]);
    token = draw(scratch.weights, uniform(params, row));
  }
  const float sum = isa.exp_sum(logits, max, 1.0F, nullptr, params.vocab_size);
  params.out_ids[row] = static_cast<std::int32_t>(token);
  params.out_logprobs[row] = logits[token] - max - std::log(sum);
}

}  // namespace

void sample(const SampleParams& params) {
  check_settings(params);
  const Kernels& isa = kernels();
  constexpr std::int64_t kCostPerLogit = 8;
  parallel_for(params.num_rows, tasks_worth_a_thread(params.vocab_size * kCostPerLogit),
               [&](std::int64_t row) { sample_row(isa, params, row); });
}

}  // namespace phi3::cpu
