// Sampling without state: the token of a row is a function of its logits, its settings and (seed,
// sequence, position). A block per row, which shares out nothing but sums of whole numbers.
#include <cstdint>
#include <limits>

#include "core/check.h"
#include "core/philox.h"
#include "cuda/adjusted_logits.cuh"
#include "cuda/cuda.h"
#include "cuda/first_reaching.cuh"
#include "cuda/launch.h"
#include "cuda/logits_row.cuh"
#include "cuda/token_filters.cuh"
#include "cuda/weights.cuh"

namespace phi3::cuda {
namespace {

// What the CPU's op would throw at, the row's entries apart.
PHI3_DEVICE bool has_sound_settings(const SampleParams& p, std::int64_t row) {
  const auto is_share = [](float x) { return x > 0 && x <= 1; };
  if (!(isfinite(p.temperature[row]) && p.temperature[row] >= 0)) return false;
  if (p.top_k[row] < 0 || !is_share(p.top_p[row])) return false;
  if (p.sequence_indices[row] < 0 || p.positions[row] < 0) return false;
  if (p.min_p != nullptr && !(p.min_p[row] == 0 || is_share(p.min_p[row]))) return false;
  if (p.typical_p != nullptr && !is_share(p.typical_p[row])) return false;
  const PenaltyParams& penalties = p.penalties;
  if (penalties.starts == nullptr) return true;
  return isfinite(penalties.repetition[row]) && penalties.repetition[row] > 0 &&
         isfinite(penalties.presence[row]) && isfinite(penalties.frequency[row]);
}

// First token by rising id whose cumulative weight exceeds u of the total, u = bits · 2^-24.
PHI3_DEVICE int draw(const LogitsRow& row,
                     const KeptTokens& kept,
                     std::uint32_t bits,
                     SelectBlock& block) {
  const std::uint64_t total = total_of(row, kept, block);
  // bits · total / 2^24, rounded down, from the halves of the total: neither product overflows.
  const std::uint64_t threshold =
      (bits * (total >> 32) << 8) + (bits * (total & 0xffffffffU) >> 24);
  return first_reaching(row.vocab_size(), threshold + 1, block.partials, [&](int id) {
    return kept.count(id, row[id]);
  });
}

PHI3_DEVICE int choose(const SampleParams& p,
                       std::int64_t idx,
                       const LogitsRow& row,
                       std::uint64_t best,
                       SelectBlock& block) {
  const float temperature = p.temperature[idx];
  if (temperature == 0) return id_of_place(best);
  KeptTokens kept{.unit = WeightUnit(row.vocab_size()),
                  .max = number_of(order_of_place(best)),
                  .temperature = temperature};
  keep_top_k(kept, row, p.top_k[idx], block);
  keep_top_p(kept, row, p.top_p[idx], block);
  if (p.min_p != nullptr) keep_min_p(kept, p.min_p[idx]);
  if (p.typical_p != nullptr) keep_typical_p(kept, row, p.typical_p[idx], block);
  return draw(row, kept, draw_bits(p.seeds[idx], p.sequence_indices[idx], p.positions[idx]), block);
}

PHI3_DEVICE void write(const SampleParams& p, std::int64_t idx, std::int32_t id, float logprob) {
  p.out_ids[idx] = id;
  p.out_logprobs[idx] = logprob;
}

__global__ void __launch_bounds__(kMaxRowThreads) sample_kernel(SampleParams p) {
  auto& block = *reinterpret_cast<SelectBlock*>(shared_memory());
  const std::int64_t idx = blockIdx.x;
  const LogitsRow raw(p.logits + idx * p.logits_stride, p.vocab_size);
  const std::uint64_t raw_best = best_of_row(raw, block.partials);
  const float* logits = nullptr;
  if (is_sound(raw_best) && has_sound_settings(p, idx)) {
    logits = adjusted_logits(p, idx, reinterpret_cast<std::uint32_t*>(block.partials));
  }
  std::uint64_t best = 0;
  if (logits == p.logits + idx * p.logits_stride) {
    best = raw_best;
  } else if (logits != nullptr) {
    best = best_of_row(LogitsRow(logits, p.vocab_size), block.partials);
  }
  if (!is_sound(best)) {  // this row alone fails
    if (threadIdx.x == 0) write(p, idx, -1, std::numeric_limits<float>::quiet_NaN());
    return;
  }
  const int token = choose(p, idx, LogitsRow(logits, p.vocab_size), best, block);
  const LogSoftmax logprob(raw, number_of(order_of_place(raw_best)), block.partials);
  if (threadIdx.x == 0) write(p, idx, token, logprob(raw[token]));
}

}  // namespace

std::int64_t sample_workspace_bytes(std::int64_t num_rows, std::int64_t vocab_size) {
  return num_rows * vocab_size * static_cast<std::int64_t>(sizeof(float));
}

void sample(const SampleParams& params, Stream stream) {
  const std::int64_t needed = sample_workspace_bytes(params.num_rows, params.vocab_size);
  const bool adjusts = params.penalties.starts != nullptr || params.biases.starts != nullptr;
  PHI3_CHECK(!adjusts || params.workspace.num_bytes >= needed,
             "sample: workspace has ",
             params.workspace.num_bytes,
             " bytes, penalties and biases need ",
             needed,
             " on CUDA");
  launch<sample_kernel>({.grid = dim3(static_cast<unsigned>(params.num_rows)),
                         .threads = row_threads(params.vocab_size),
                         .shared_bytes = sizeof(SelectBlock)},
                        stream,
                        params);
}

}  // namespace phi3::cuda
