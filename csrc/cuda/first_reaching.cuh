// Where a running sum reaches a limit.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/weight_format.h"
#include "cuda/reduce.cuh"

namespace phi3::cuda {

// Each warp by itself, and all to the same end: the first position at which `before` and
// the measures of [begin, end), its own included, reach the limit; end - 1 if none does.
template <typename MeasureAt>
PHI3_DEVICE int walk_to(
    int begin, int end, std::uint64_t before, std::uint64_t limit, const MeasureAt& measure_at) {
  for (int base = begin; base < end; base += kWarpSize) {
    const int position = base + lane_idx();
    std::uint64_t sum = position < end ? measure_at(position) : 0;
    for (int offset = 1; offset < kWarpSize; offset *= 2) {
      const std::uint64_t lower = __shfl_up_sync(kAllLanes, sum, offset);
      if (lane_idx() >= offset) sum += lower;
    }
    const unsigned reached = __ballot_sync(kAllLanes, before + sum >= limit);
    if (reached != 0) return std::min(base + __ffs(static_cast<int>(reached)) - 1, end - 1);
    before += __shfl_sync(kAllLanes, sum, kWarpSize - 1);
  }
  return end - 1;
}

// The first of `size` positions at which the measures from 0 on, its own included, add up to
// `limit`, which is above 0 and at most the sum of all. Every thread gets it.
//
// measure_at: (position) -> u64; partials: [kMaxWarps]
template <typename MeasureAt>
PHI3_DEVICE int first_reaching(int size,
                               std::uint64_t limit,
                               std::uint64_t* partials,
                               const MeasureAt& measure_at) {
  constexpr int kShort = 256;
  int begin = 0;
  int end = size;
  std::uint64_t before = 0;
  while (end - begin > kShort && num_warps() > 1) {
    const int share = static_cast<int>(round_up((end - begin + num_warps() - 1) / num_warps(), 32));
    const int first = std::min(begin + warp_idx() * share, end);
    const int last = std::min(first + share, end);
    std::uint64_t sum = 0;
    for (int position = first + lane_idx(); position < last; position += kWarpSize) {
      sum += measure_at(position);
    }
    sum = reduce_warp(sum, Plus{});
    __syncthreads();  // what was read of `partials` before was read
    if (lane_idx() == 0) partials[warp_idx()] = sum;
    __syncthreads();
    int warp = 0;
    for (; warp + 1 < num_warps() && before + partials[warp] < limit; ++warp) {
      before += partials[warp];
    }
    begin = std::min(begin + warp * share, end);
    end = std::min(begin + share, end);
  }
  return walk_to(begin, end, before, limit, measure_at);
}

}  // namespace phi3::cuda
