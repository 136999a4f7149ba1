// Log-probabilities of given and of the likeliest tokens.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.h"
#include "cpu/cpu.h"
#include "cpu/isa.h"
#include "cpu/log_softmax.h"
#include "cpu/parallel.h"

namespace phi3::cpu {
namespace {

// The k tokens of the largest logits into `ids`, in order, 0 <= k <= V. One pass over the row: what
// is best so far is a heap in `ids` itself whose top is the worst of it.
void find_top(const float* logits, std::int64_t vocab_size, std::int32_t* ids, std::int64_t k) {
  if (k == 0) return;
  const auto comes_before = [logits](std::int32_t a, std::int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  std::int32_t* const end = ids + k;
  for (std::int64_t i = 0; i < k; ++i) ids[i] = static_cast<std::int32_t>(i);
  std::make_heap(ids, end, comes_before);
  float worst = logits[ids[0]];
  for (std::int64_t i = k; i < vocab_size; ++i) {
    if (!(logits[i] > worst)) continue;  // of equals the earlier one stays
    std::pop_heap(ids, end, comes_before);
    end[-1] = static_cast<std::int32_t>(i);
    std::push_heap(ids, end, comes_before);
    worst = logits[ids[0]];
  }
  std::sort_heap(ids, end, comes_before);
}

void logprobs_row(const Kernels& isa, const LogprobsParams& params, std::int64_t row) {
  const float* logits = params.logits + row * params.logits_stride;
  const std::int64_t k = params.num_top;
  std::int32_t* top_ids = params.out_top_ids + row * k;
  float* top_logprobs = params.out_top_logprobs + row * k;
  const float max = isa.max(logits, params.vocab_size);
  if (!std::isfinite(max)) {  // NaN somewhere, +inf, or nothing above -inf: this row alone fails
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    params.out_logprobs[row] = kNan;
    std::fill_n(top_ids, k, -1);
    std::fill_n(top_logprobs, k, kNan);
    return;
  }
  const LogSoftmax logprob(isa, logits, max, params.vocab_size);
  params.out_logprobs[row] = logprob(logits[params.token_ids[row]]);
  find_top(logits, params.vocab_size, top_ids, k);
  for (std::int64_t i = 0; i < k; ++i) top_logprobs[i] = logprob(logits[top_ids[i]]);
}

}  // namespace

void logprobs(const LogprobsParams& params) {
  for (std::int64_t i = 0; i < params.num_rows; ++i) {
    PHI3_CHECK(params.token_ids[i] >= 0 && params.token_ids[i] < params.vocab_size,
               "logprobs: token_ids[",
               i,
               "] is ",
               params.token_ids[i],
               ", expected 0..",
               params.vocab_size - 1);
  }
  const Kernels& isa = kernels();
  constexpr std::int64_t kCostPerLogit = 8;
  parallel_for(params.num_rows,
               tasks_worth_a_thread(params.vocab_size * kCostPerLogit),
               [&](std::int64_t row) { logprobs_row(isa, params, row); });
}

}  // namespace phi3::cpu
