// Sampling without state: the token of a row is a function of its logits, its settings and (seed,
// sequence, position).
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
               "sample: temperature[",
               i,
               "] is ",
               params.temperature[i],
               ", expected a finite number of at least 0");
    PHI3_CHECK(params.top_k[i] >= 0,
               "sample: top_k[",
               i,
               "] is ",
               params.top_k[i],
               ", expected at least 0");
    PHI3_CHECK(params.top_p[i] > 0 && params.top_p[i] <= 1,
               "sample: top_p[",
               i,
               "] is ",
               params.top_p[i],
               ", expected more than 0 and at most 1");
    PHI3_CHECK(params.sequence_indices[i] >= 0,
               "sample: sequence_indices[",
               i,
               "] is ",
               params.sequence_indices[i],
               ", expected at least 0");
    PHI3_CHECK(params.positions[i] >= 0,
               "sample: positions[",
               i,
               "] is ",
               params.positions[i],
               ", expected at least 0");
  }
}

// Uniform in [0, 1), a multiple of 2^-24.
double uniform(const SampleParams& params, std::int64_t row) {
  const auto seed = static_cast<std::uint64_t>(params.seeds[row]);
  const PhiloxCounter counter = {static_cast<std::uint32_t>(params.positions[row]),
                                 static_cast<std::uint32_t>(params.sequence_indices[row]),
                                 0,
                                 0};
  const PhiloxKey key = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  return static_cast<double>(philox(counter, key)[0] >> 8) * 0x1p-24;
}

// Reused between rows and calls of a thread.
struct Scratch {
  std::vector<float> weights;
  std::vector<float> heap;
  std::vector<std::pair<float, std::int32_t>> candidates;
};

// In one fixed order that does not wait for each addition.
double sum(const float* weights, std::size_t count) {
  constexpr std::size_t kChains = 8;
  double chain[kChains] = {};
  for (std::size_t i = 0; i < count; ++i) chain[i % kChains] += weights[i];
  double total = 0;
  for (const double part : chain) total += part;
  return total;
}

// Zeroes the weight of every logit below the k-th largest; ties with it stay.
void keep_top_k(Scratch& scratch, const float* logits, std::int64_t k) {
  std::vector<float>& weights = scratch.weights;
  if (k <= 0 || k >= std::ssize(weights)) return;
  // The k largest so far, the smallest of them in front: few logits of a long row get past it.
  std::vector<float>& heap = scratch.heap;
  heap.assign(logits, logits + k);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  for (std::size_t i = heap.size(); i < weights.size(); ++i) {
    if (logits[i] <= heap.front()) continue;
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    heap.back() = logits[i];
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  }
  const float kth = heap.front();
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = logits[i] < kth ? 0 : weights[i];
}

// Keeps the smallest set of most likely tokens whose weight reaches p of the total: a token stays
// when those before it weigh less than that. Among equal weights the lower index is the likelier.
// At least one stays.
void keep_top_p(Scratch& scratch, float p) {
  if (p >= 1) return;
  std::vector<float>& weights = scratch.weights;
  auto& candidates = scratch.candidates;
  const double total = sum(weights.data(), weights.size());
  const double limit = double{p} * total;
  // Lighter tokens cannot stay: all of them together weigh less than what may be dropped. Half of
  // it, so that no rounding matters.
  const double lightest = 0.5 * (total - limit) / static_cast<double>(weights.size());
  candidates.clear();
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] >= lightest && weights[i] > 0) {
      candidates.emplace_back(weights[i], static_cast<std::int32_t>(i));
    }
  }
  const auto is_likelier = [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  // Halve the stretch in which the set ends until it is short enough to sort.
  constexpr std::ptrdiff_t kShort = 64;
  auto begin = candidates.begin();
  auto end = candidates.end();
  double before = 0;
  while (end - begin > kShort) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, is_likelier);
    double half = 0;
    for (auto it = begin; it != middle; ++it) half += it->first;
    if (before + half >= limit) {
      end = middle;
    } else {
      before += half;
      begin = middle;
    }
  }
  std::sort(begin, end, is_likelier);
  auto kept = begin;
  for (; kept != end; ++kept) {
    if (kept != candidates.begin() && before >= limit) break;
    before += kept->first;
  }
  // The kept ones lie in front of `kept`.
  std::fill(weights.begin(), weights.end(), 0.0F);
  for (auto it = candidates.begin(); it != kept; ++it) {
    weights[static_cast<std::size_t>(it->second)] = it->first;
  }
}

// First token whose cumulative weight exceeds u of the total. Walks blocks, then the tokens of one.
std::int64_t draw(const std::vector<float>& weights, double u) {
  constexpr std::size_t kBlock = 256;
  const auto block_sum = [&](std::size_t begin) {
    return sum(weights.data() + begin, std::min(kBlock, weights.size() - begin));
  };
  double total = 0;
  for (std::size_t begin = 0; begin < weights.size(); begin += kBlock) total += block_sum(begin);
  const double threshold = u * total;
  // Ends: the last block's end is `total`, by the same additions, and u < 1.
  std::size_t begin = 0;
  double cumulative = 0;
  for (double block = block_sum(0); cumulative + block <= threshold; block = block_sum(begin)) {
    cumulative += block;
    begin += kBlock;
  }
  std::size_t token = begin;
  for (std::size_t i = begin; i < std::min(begin + kBlock, weights.size()); ++i) {
    if (weights[i] == 0) continue;
    token = i;  // the last one, should the other order of additions leave none above the threshold
    cumulative += weights[i];
    if (cumulative > threshold) break;
  }
  return static_cast<std::int64_t>(token);
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
  const double sum = isa.exp_sum(logits, max, 1.0F, nullptr, params.vocab_size);
  params.out_ids[row] = static_cast<std::int32_t>(token);
  params.out_logprobs[row] = static_cast<float>(double{logits[token]} - max - std::log(sum));
}

}  // namespace

void sample(const SampleParams& params) {
  check_settings(params);
  const Kernels& isa = kernels();
  constexpr std::int64_t kCostPerLogit = 8;
  parallel_for(params.num_rows,
               tasks_worth_a_thread(params.vocab_size * kCostPerLogit),
               [&](std::int64_t row) { sample_row(isa, params, row); });
}

}  // namespace phi3::cpu
