// Log-probabilities of given and of the likeliest tokens: a block per row.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "cuda/cuda.h"
#include "cuda/launch.h"
#include "cuda/logits_row.cuh"
#include "cuda/select.cuh"
#include "cuda/weights.cuh"

namespace phi3::cuda {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

PHI3_DEVICE void write_spoilt(const LogprobsParams& p, std::int64_t idx) {
  if (threadIdx.x == 0) p.out_logprobs[idx] = kNan;
  for (std::int64_t i = threadIdx.x; i < p.num_top; i += blockDim.x) {
    p.out_top_ids[idx * p.num_top + i] = -1;
    p.out_top_logprobs[idx * p.num_top + i] = kNan;
  }
}

PHI3_DEVICE void write_top(const LogprobsParams& p,
                           std::int64_t idx,
                           const LogitsRow& row,
                           const LogSoftmax& logprob,
                           SelectBlock& block) {
  std::uint64_t end = kAllPlaces;
  for (std::int64_t done = 0; done < p.num_top;) {
    const std::int64_t wanted = p.num_top - done;
    const unsigned listed = list_top(row, static_cast<std::uint64_t>(wanted), end, block);
    const std::int64_t count = std::min<std::int64_t>(wanted, listed);
    for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) {
      const int id = id_of_place(block.list[i]);
      p.out_top_ids[idx * p.num_top + done + i] = id;
      p.out_top_logprobs[idx * p.num_top + done + i] = logprob(row[id]);
    }
    end = block.list[count - 1];
    done += count;
  }
}

// A token id outside of the vocabulary has logprob NaN.
__global__ void __launch_bounds__(kMaxRowThreads) logprobs_kernel(LogprobsParams p) {
  auto& block = *reinterpret_cast<SelectBlock*>(shared_memory());
  const std::int64_t idx = blockIdx.x;
  const LogitsRow row(p.logits + idx * p.logits_stride, p.vocab_size);
  const std::uint64_t best = best_of_row(row, block.partials);
  if (!is_sound(best)) {
    write_spoilt(p, idx);
    return;
  }
  const LogSoftmax logprob(row, number_of(order_of_place(best)), block.partials);
  if (threadIdx.x == 0) {
    const std::int32_t id = p.token_ids[idx];
    p.out_logprobs[idx] = id >= 0 && id < row.vocab_size() ? logprob(row[id]) : kNan;
  }
  write_top(p, idx, row, logprob, block);
}

}  // namespace

void logprobs(const LogprobsParams& params, Stream stream) {
  launch<logprobs_kernel>({.grid = dim3(static_cast<unsigned>(params.num_rows)),
                           .threads = row_threads(params.vocab_size),
                           .shared_bytes = sizeof(SelectBlock)},
                          stream,
                          params);
}

}  // namespace phi3::cuda
