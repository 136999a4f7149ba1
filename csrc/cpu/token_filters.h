// Which tokens of a row may be drawn: each filter zeroes the weights of those that may not, and
// keeps at least one.
//
// Weights are exp((logit - max) / temperature), [V], never normalized.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace phi3::cpu {

// A token under the order in which a filter takes them: larger keys first, of equal ones the lower
// id.
struct Candidate {
  float key;
  std::int32_t token_id;
};

// Memory that filters reuse.
struct FilterScratch {
  std::vector<float> heap;
  std::vector<Candidate> candidates;
};

// In one fixed order that does not wait for each addition.
double sum(const float* weights, std::size_t count);

// Keeps the k largest logits and what equals the last of them. k <= 0: all.
void keep_top_k(std::vector<float>& weights,
                const float* logits,
                std::int64_t k,
                FilterScratch& scratch);

// Keeps the smallest set of most likely tokens whose weight reaches p of the total: a token stays
// when those before it weigh less than that. Among equal weights the lower index is the likelier.
void keep_top_p(std::vector<float>& weights, float p, FilterScratch& scratch);

// Keeps what weighs at least p times as much as the heaviest token.
void keep_min_p(std::vector<float>& weights, float p);

// Locally typical sampling (Meister et al. 2022): takes tokens by how near their surprise -log p is
// to the entropy, until they weigh p of the total, and then what is as near as the last one taken.
void keep_typical_p(std::vector<float>& weights,
                    const float* logits,
                    float max,
                    float temperature,
                    float p,
                    FilterScratch& scratch);

}  // namespace phi3::cpu
