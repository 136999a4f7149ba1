// What the threads of a block have, put together: one tree, fixed by the number of threads, so that
// equal inputs give equal bits. Every thread of the block must call, and gets the result.
#pragma once

#include <cstdint>

#include "cuda/ptx.h"

namespace phi3::cuda {

inline constexpr int kMaxWarps = 32;  // of a block

PHI3_DEVICE int lane_idx() { return static_cast<int>(threadIdx.x) % kWarpSize; }
PHI3_DEVICE int warp_idx() { return static_cast<int>(threadIdx.x) / kWarpSize; }
PHI3_DEVICE int num_warps() { return static_cast<int>(blockDim.x) / kWarpSize; }

// Ways to put two numbers together. T{} must leave the other one as it is.
struct Plus {
  template <typename T>
  PHI3_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};

// Of numbers of at least 0.
struct Largest {
  template <typename T>
  PHI3_DEVICE T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

template <typename T, typename Combine>
PHI3_DEVICE T reduce_warp(T value, Combine combine) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, offset));
  }
  return value;
}

// values: any number of them, each reduced by itself; partials: [kCount][kMaxWarps] in shared
// memory, free again at the block's next barrier.
template <typename T, int kCount, typename Combine>
PHI3_DEVICE void reduce_block(T (&values)[kCount], T* partials, Combine combine) {
  __syncthreads();  // what was read of `partials` before was read
  for (int i = 0; i < kCount; ++i) {
    const T of_warp = reduce_warp(values[i], combine);
    if (lane_idx() == 0) partials[i * kMaxWarps + warp_idx()] = of_warp;
  }
  __syncthreads();
  for (int i = warp_idx(); i < kCount; i += num_warps()) {
    const T of_lane = lane_idx() < num_warps() ? partials[i * kMaxWarps + lane_idx()] : T{};
    const T result = reduce_warp(of_lane, combine);
    if (lane_idx() == 0) partials[i * kMaxWarps] = result;
  }
  __syncthreads();
  for (int i = 0; i < kCount; ++i) values[i] = partials[i * kMaxWarps];
}

template <typename T, typename Combine>
PHI3_DEVICE T reduce_block(T value, T* partials, Combine combine) {
  T values[1] = {value};
  reduce_block(values, partials, combine);
  return values[0];
}

}  // namespace phi3::cuda
