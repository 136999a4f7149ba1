// Sampling without state: the token of a row is a function of its logits, its settings and (seed,
// sequence, position).
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/check.h"
#include "core/philox.h"
#include "cpu/cpu.h"
#include "cpu/isa.h"
#include "cpu/log_softmax.h"
#include "cpu/parallel.h"
#include "cpu/token_filters.h"

namespace phi3::cpu {
namespace {

// Entries of rows: starts ascend from 0 to `num_entries`, ids lie in the vocabulary.
void check_entries(const char* name,
                   const std::int32_t* starts,
                   const std::int32_t* token_ids,
                   std::int64_t num_entries,
                   const SampleParams& params) {
  const std::int64_t num_rows = params.num_rows;
  PHI3_CHECK(starts[0] == 0, "sample: ", name, "_starts[0] is ", starts[0], ", expected 0");
  for (std::int64_t i = 0; i < num_rows; ++i) {
    PHI3_CHECK(starts[i] <= starts[i + 1],
               "sample: ",
               name,
               "_starts[",
               i + 1,
               "] is ",
               starts[i + 1],
               ", expected at least ",
               starts[i]);
  }
  PHI3_CHECK(starts[num_rows] == num_entries,
             "sample: ",
             name,
             "_starts[",
             num_rows,
             "] is ",
             starts[num_rows],
             ", expected ",
             num_entries);
  for (std::int64_t i = 0; i < num_entries; ++i) {
    PHI3_CHECK(token_ids[i] >= 0 && token_ids[i] < params.vocab_size,
               "sample: ",
               name,
               "_ids[",
               i,
               "] is ",
               token_ids[i],
               ", expected 0..",
               params.vocab_size - 1);
  }
}

void check_penalties(const SampleParams& params) {
  const PenaltyParams& penalties = params.penalties;
  if (penalties.starts == nullptr) return;
  for (std::int64_t i = 0; i < params.num_rows; ++i) {
    PHI3_CHECK(std::isfinite(penalties.repetition[i]) && penalties.repetition[i] > 0,
               "sample: repetition[",
               i,
               "] is ",
               penalties.repetition[i],
               ", expected a finite number above 0");
    PHI3_CHECK(std::isfinite(penalties.presence[i]),
               "sample: presence[",
               i,
               "] is ",
               penalties.presence[i],
               ", expected a finite number");
    PHI3_CHECK(std::isfinite(penalties.frequency[i]),
               "sample: frequency[",
               i,
               "] is ",
               penalties.frequency[i],
               ", expected a finite number");
  }
  check_entries("seen", penalties.starts, penalties.token_ids, penalties.num_entries, params);
  for (std::int64_t i = 0; i < penalties.num_entries; ++i) {
    PHI3_CHECK(penalties.counts[i] >= 0,
               "sample: seen_counts[",
               i,
               "] is ",
               penalties.counts[i],
               ", expected at least 0");
  }
}

void check_biases(const SampleParams& params) {
  const BiasParams& biases = params.biases;
  if (biases.starts == nullptr) return;
  check_entries("bias", biases.starts, biases.token_ids, biases.num_entries, params);
  for (std::int64_t i = 0; i < biases.num_entries; ++i) {
    PHI3_CHECK(biases.values[i] < std::numeric_limits<float>::infinity(),
               "sample: bias_values[",
               i,
               "] is ",
               biases.values[i],
               ", expected a finite number or -inf");
  }
}

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
    if (params.min_p != nullptr) {
      PHI3_CHECK(params.min_p[i] >= 0 && params.min_p[i] <= 1,
                 "sample: min_p[",
                 i,
                 "] is ",
                 params.min_p[i],
                 ", expected 0 to 1");
    }
    if (params.typical_p != nullptr) {
      PHI3_CHECK(params.typical_p[i] > 0 && params.typical_p[i] <= 1,
                 "sample: typical_p[",
                 i,
                 "] is ",
                 params.typical_p[i],
                 ", expected more than 0 and at most 1");
    }
  }
  check_penalties(params);
  check_biases(params);
}

// Uniform in [0, 1), a multiple of 2^-24.
double uniform(const SampleParams& params, std::int64_t row) {
  return draw_bits(params.seeds[row], params.sequence_indices[row], params.positions[row]) *
         0x1p-24;
}

// The logits of a row after penalties and biases; the raw ones, not copied, where it has neither.
// Valid until the thread's next row.
const float* adjust(const SampleParams& params, std::int64_t row, std::vector<float>& storage) {
  const PenaltyParams& penalties = params.penalties;
  const BiasParams& biases = params.biases;
  const auto is_empty = [row](const std::int32_t* starts) {
    return starts == nullptr || starts[row] == starts[row + 1];
  };
  const float* raw = params.logits + row * params.logits_stride;
  if (is_empty(penalties.starts) && is_empty(biases.starts)) return raw;
  storage.assign(raw, raw + params.vocab_size);
  float* logits = storage.data();
  if (penalties.starts != nullptr) {
    const float repetition = penalties.repetition[row];
    for (std::int32_t i = penalties.starts[row]; i < penalties.starts[row + 1]; ++i) {
      float& logit = logits[penalties.token_ids[i]];
      logit = logit < 0 ? logit * repetition : logit / repetition;
      const std::int32_t count = penalties.counts[i];
      if (count == 0) continue;
      logit -= penalties.frequency[row] * static_cast<float>(count);
      logit -= penalties.presence[row];
    }
  }
  if (biases.starts != nullptr) {
    for (std::int32_t i = biases.starts[row]; i < biases.starts[row + 1]; ++i) {
      logits[biases.token_ids[i]] += biases.values[i];
    }
  }
  return logits;
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

// Reused between rows and calls of a thread.
struct Scratch {
  std::vector<float> logits;
  std::vector<float> weights;
  FilterScratch filters;
};

std::int64_t choose(const Kernels& isa,
                    const SampleParams& params,
                    std::int64_t row,
                    const float* logits,
                    float max,
                    Scratch& scratch) {
  const float temperature = params.temperature[row];
  if (temperature == 0) return std::find(logits, logits + params.vocab_size, max) - logits;
  std::vector<float>& weights = scratch.weights;
  weights.resize(static_cast<std::size_t>(params.vocab_size));
  isa.exp_sum(logits, max, temperature, weights.data(), params.vocab_size);
  keep_top_k(weights, logits, params.top_k[row], scratch.filters);
  keep_top_p(weights, params.top_p[row], scratch.filters);
  if (params.min_p != nullptr) keep_min_p(weights, params.min_p[row]);
  if (params.typical_p != nullptr) {
    keep_typical_p(weights, logits, max, temperature, params.typical_p[row], scratch.filters);
  }
  return draw(weights, uniform(params, row));
}

void sample_row(const Kernels& isa, const SampleParams& params, std::int64_t row) {
  thread_local Scratch scratch;
  const float* raw = params.logits + row * params.logits_stride;
  const float raw_max = isa.max(raw, params.vocab_size);
  const float* logits = raw;
  float max = raw_max;
  if (std::isfinite(raw_max)) {
    logits = adjust(params, row, scratch.logits);
    if (logits != raw) max = isa.max(logits, params.vocab_size);
  }
  if (!std::isfinite(max)) {  // NaN somewhere, +inf, or nothing above -inf: this row alone fails
    params.out_ids[row] = -1;
    params.out_logprobs[row] = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  const std::int64_t token = choose(isa, params, row, logits, max, scratch);
  params.out_ids[row] = static_cast<std::int32_t>(token);
  params.out_logprobs[row] = LogSoftmax(isa, raw, raw_max, params.vocab_size)(raw[token]);
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
