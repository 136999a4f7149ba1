// Logits of a row after penalties and biases.
#pragma once

#include <cstdint>

#include "core/params.h"
#include "cuda/reduce.cuh"

namespace phi3::cuda {

// The entries of one row among those of all.
struct Entries {
  std::int32_t begin;
  std::int32_t end;

  PHI3_DEVICE bool is_empty() const { return begin == end; }
};

PHI3_DEVICE Entries entries_of(const std::int32_t* starts, std::int64_t row) {
  if (starts == nullptr) return {0, 0};
  return {starts[row], starts[row + 1]};
}

// Whether there are such entries; empty ones need not lie among all.
PHI3_DEVICE bool is_within(Entries entries, std::int64_t num_entries) {
  return entries.is_empty() ||
         (entries.begin >= 0 && entries.begin < entries.end && entries.end <= num_entries);
}

// An entry of a row is a token of its own, so threads share them out. Returns whether all made
// sense.
PHI3_DEVICE bool penalize(const SampleParams& p, std::int64_t row, Entries seen, float* logits) {
  const PenaltyParams& penalties = p.penalties;
  bool is_sound = true;
  for (std::int64_t i = seen.begin + static_cast<std::int64_t>(threadIdx.x); i < seen.end;
       i += blockDim.x) {
    const std::int32_t id = penalties.token_ids[i];
    const std::int32_t count = penalties.counts[i];
    if (id < 0 || id >= p.vocab_size || count < 0) {
      is_sound = false;
      continue;
    }
    float logit = logits[id];
    const float repetition = penalties.repetition[row];
    logit = logit < 0 ? logit * repetition : logit / repetition;
    if (count > 0) {
      logit -= penalties.frequency[row] * static_cast<float>(count);
      logit -= penalties.presence[row];
    }
    logits[id] = logit;
  }
  return is_sound;
}

// What is said of a token more than once adds up in the order of the entries: a token belongs to
// one thread.
PHI3_DEVICE bool add_biases(const SampleParams& p, Entries biased, float* logits) {
  bool is_sound = true;
  for (std::int64_t i = biased.begin; i < biased.end; ++i) {
    const std::int32_t id = p.biases.token_ids[i];
    if (id < 0 || id >= p.vocab_size) {
      is_sound = false;
    } else if (static_cast<unsigned>(id) % blockDim.x == threadIdx.x) {
      logits[id] += p.biases.values[i];
    }
  }
  return is_sound;
}

// The raw logits, not copied, where the row has neither; null where an entry makes no sense.
// partials: [kMaxWarps]
PHI3_DEVICE const float* adjusted_logits(const SampleParams& p,
                                         std::int64_t row,
                                         std::uint32_t* partials) {
  const float* raw = p.logits + row * p.logits_stride;
  const Entries seen = entries_of(p.penalties.starts, row);
  const Entries biased = entries_of(p.biases.starts, row);
  if (!is_within(seen, p.penalties.num_entries) || !is_within(biased, p.biases.num_entries)) {
    return nullptr;
  }
  if (seen.is_empty() && biased.is_empty()) return raw;
  float* logits = reinterpret_cast<float*>(p.workspace.data) + row * p.vocab_size;
  for (std::int64_t id = threadIdx.x; id < p.vocab_size; id += blockDim.x) logits[id] = raw[id];
  __syncthreads();
  bool is_sound = penalize(p, row, seen, logits);
  __syncthreads();
  is_sound &= add_biases(p, biased, logits);
  const auto is_spoilt = static_cast<std::uint32_t>(!is_sound);
  return reduce_block(is_spoilt, partials, Largest{}) == 0 ? logits : nullptr;
}

}  // namespace phi3::cuda
