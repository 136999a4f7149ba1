// CUDA's device functions. Those of a warp want all 32 lanes.
#pragma once

#include <math.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "emulator/threads.h"
#include "emulator/warp.h"

inline void __syncthreads() { phi3::emulator::meet_block("__syncthreads"); }
inline void __syncwarp(unsigned mask = 0xffffffffU) { phi3::emulator::sync_warp(mask); }
inline void __threadfence() {}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int segment = phi3::emulator::lane_index() & ~(width - 1);
  return phi3::emulator::exchange_value(
      "__shfl_sync", mask, value, segment + (source & (width - 1)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  const int lane = phi3::emulator::lane_index();
  const int source = lane ^ lane_mask;
  const bool is_beyond = source / width > lane / width;
  return phi3::emulator::exchange_value("__shfl_xor_sync", mask, value, is_beyond ? lane : source);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = phi3::emulator::lane_index();
  const int source = lane - static_cast<int>(delta);
  const bool is_before = source < (lane & ~(width - 1));
  return phi3::emulator::exchange_value("__shfl_up_sync", mask, value, is_before ? lane : source);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = phi3::emulator::lane_index();
  const int source = lane + static_cast<int>(delta);
  const bool is_beyond = source >= (lane & ~(width - 1)) + width;
  return phi3::emulator::exchange_value("__shfl_down_sync", mask, value, is_beyond ? lane : source);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return phi3::emulator::vote(mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) {
  return static_cast<int>(__ballot_sync(mask, predicate) != 0);
}
inline int __all_sync(unsigned mask, int predicate) {
  return static_cast<int>(__ballot_sync(mask, predicate) == 0xffffffffU);
}

inline int __popc(unsigned value) { return std::popcount(value); }
inline int __clz(int value) { return std::countl_zero(static_cast<unsigned>(value)); }
inline int __ffs(int value) {
  return value == 0 ? 0 : 1 + std::countr_zero(static_cast<unsigned>(value));
}
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }

// What CUDA declares outside of any namespace. Of a number and a NaN fminf and fmaxf take the
// number, as CUDA's do.
inline int min(int a, int b) { return std::min(a, b); }
inline int max(int a, int b) { return std::max(a, b); }
inline unsigned min(unsigned a, unsigned b) { return std::min(a, b); }
inline unsigned max(unsigned a, unsigned b) { return std::max(a, b); }
inline long min(long a, long b) { return std::min(a, b); }
inline long max(long a, long b) { return std::max(a, b); }
inline long long min(long long a, long long b) { return std::min(a, b); }
inline long long max(long long a, long long b) { return std::max(a, b); }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }

// One thread runs at a time, so plain memory operations are atomic.
template <typename T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address = before + value;
  return before;
}
