// Rows of any length in groups of sixteen.
#pragma once

#include <cstdint>

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/vec.h"

namespace phi3::cpu::PHI3_ISA {
namespace {

// Calls full(i) for every whole group of 16 and rest(i, count) for what is left.
template <typename Full, typename Rest>
inline void for_each_group(std::int64_t n, Full full, Rest rest) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) full(i);
  if (i < n) rest(i, n - i);
}

// As `v` in the first lanes (0 < count < 16), 0 in the rest.
inline F keep_first(F v, std::int64_t count) {
  float lane[kLanes] = {};
  store_first(lane, v, count);
  return load(lane);
}

}  // namespace
}  // namespace phi3::cpu::PHI3_ISA
