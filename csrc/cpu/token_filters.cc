#include "cpu/token_filters.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace phi3::cpu {
namespace {

bool comes_before(const Candidate& a, const Candidate& b) {
  return a.key != b.key ? a.key > b.key : a.token_id < b.token_id;
}

// Moves the shortest run of first candidates whose weights reach `limit` to the front, at least one
// if there is any, and returns its end. The last of the run lies right before the end.
template <typename WeightOf>
std::vector<Candidate>::iterator take_until(std::vector<Candidate>& candidates,
                                            double limit,
                                            const WeightOf& weight_of) {
  // Halve the stretch in which the run ends until it is short enough to sort.
  constexpr std::ptrdiff_t kShort = 64;
  auto begin = candidates.begin();
  auto end = candidates.end();
  double before = 0;
  while (end - begin > kShort) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, comes_before);
    double half = 0;
    for (auto it = begin; it != middle; ++it) half += weight_of(*it);
    if (before + half >= limit) {
      end = middle;
    } else {
      before += half;
      begin = middle;
    }
  }
  std::sort(begin, end, comes_before);
  auto kept = begin;
  for (; kept != end; ++kept) {
    if (kept != candidates.begin() && before >= limit) break;
    before += weight_of(*kept);
  }
  return kept;
}

}  // namespace

double sum(const float* weights, std::size_t count) {
  constexpr std::size_t kChains = 8;
  double chain[kChains] = {};
  for (std::size_t i = 0; i < count; ++i) chain[i % kChains] += weights[i];
  double total = 0;
  for (const double part : chain) total += part;
  return total;
}

void keep_top_k(std::vector<float>& weights,
                const float* logits,
                std::int64_t k,
                FilterScratch& scratch) {
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

void keep_top_p(std::vector<float>& weights, float p, FilterScratch& scratch) {
  if (p >= 1) return;
  auto& candidates = scratch.candidates;
  const double total = sum(weights.data(), weights.size());
  const double limit = double{p} * total;
  // Lighter tokens cannot stay: all of them together weigh less than what may be dropped. Half of
  // it, so that no rounding matters.
  const double lightest = 0.5 * (total - limit) / static_cast<double>(weights.size());
  candidates.clear();
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] >= lightest && weights[i] > 0) {
      candidates.push_back({weights[i], static_cast<std::int32_t>(i)});
    }
  }
  const auto kept = take_until(candidates, limit, [](const Candidate& token) { return token.key; });
  std::fill(weights.begin(), weights.end(), 0.0F);
  for (auto it = candidates.begin(); it != kept; ++it) {
    weights[static_cast<std::size_t>(it->token_id)] = it->key;
  }
}

void keep_min_p(std::vector<float>& weights, float p) {
  if (p <= 0) return;
  const float lightest = p * *std::max_element(weights.begin(), weights.end());
  for (float& weight : weights) weight = weight < lightest ? 0 : weight;
}

void keep_typical_p(std::vector<float>& weights,
                    const float* logits,
                    float max,
                    float temperature,
                    float p,
                    FilterScratch& scratch) {
  if (p >= 1) return;
  // With x = (logit - max) / temperature, -log p is log(total) - x and the entropy log(total) -
  // mean(x): they are |x - mean(x)| apart.
  const auto x = [&](std::size_t i) { return double{logits[i] - max} / double{temperature}; };
  double total = 0;
  double moment = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] == 0) continue;
    total += weights[i];
    moment += weights[i] * x(i);
  }
  const double mean = moment / total;
  auto& candidates = scratch.candidates;
  candidates.clear();
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] == 0) continue;
    const auto nearness = static_cast<float>(-std::abs(x(i) - mean));
    candidates.push_back({nearness, static_cast<std::int32_t>(i)});
  }
  const auto kept = take_until(candidates, double{p} * total, [&](const Candidate& token) {
    return weights[static_cast<std::size_t>(token.token_id)];
  });
  const float last = std::prev(kept)->key;
  for (const Candidate& token : candidates) {
    if (token.key < last) weights[static_cast<std::size_t>(token.token_id)] = 0;
  }
}

}  // namespace phi3::cpu
