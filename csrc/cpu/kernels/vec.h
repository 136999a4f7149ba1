// Sixteen float lanes (F) of the ISA being compiled, and what every ISA builds from them the same
// way.
#pragma once

#include <cstdint>

#if defined(PHI3_ISA_AVX512)
#include "cpu/kernels/vec_avx512.h"
#elif defined(PHI3_ISA_AVX2)
#include "cpu/kernels/vec_avx2.h"
#else
#include "cpu/kernels/vec_portable.h"
#endif

namespace phi3::cpu::PHI3_ISA {
namespace {

inline F load(const std::uint16_t* p) { return load_bf16(p); }
inline void store(std::uint16_t* p, F v) { store_bf16(p, v); }
inline F load(const std::int8_t* p) { return load_int8(p); }

// First n lanes (0 < n < 16); the rest are 0.
template <typename T>
inline F load_first(const T* p, std::int64_t n) {
  T buffer[16] = {};
  __builtin_memcpy(buffer, p, static_cast<unsigned long>(n) * sizeof(T));
  return load(buffer);
}
template <typename T>
inline void store_first(T* p, F v, std::int64_t n) {
  T buffer[16];
  store(buffer, v);
  __builtin_memcpy(p, buffer, static_cast<unsigned long>(n) * sizeof(T));
}

// Fixed tree: lanes 8 apart, then 4, 2, 1.
inline float sum_lanes(F v) {
  float lane[16];
  store(lane, v);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}
inline float max_lanes(F v) {
  float lane[16];
  store(lane, v);
  float best = lane[0];
  for (int i = 1; i < 16; ++i) best = lane[i] > best ? lane[i] : best;
  return best;
}

inline float first_lane(F v) {
  float lane[16];
  store(lane, v);
  return lane[0];
}

// e^x to about 1 ulp on [-87.3, 88.3], 0 below, saturated above; NaN stays NaN. Cody-Waite
// reduction by ln 2 and the degree-6 polynomial of Cephes' expf.
inline F exp(F x) {
  const F lowest = set1(-87.336544F);
  const F shift = set1(12582912.0F);  // 1.5 · 2^23: adding it rounds to an integer in the low bits
  const F clamped = min(set1(88.3F), max(lowest, x));
  const F shifted = fma(clamped, set1(1.44269504F), shift);
  const F n = sub(shifted, shift);
  F r = fma(n, set1(-0.693359375F), clamped);
  r = fma(n, set1(2.12194440e-4F), r);
  F p = set1(1.9875691500e-4F);
  p = fma(p, r, set1(1.3981999507e-3F));
  p = fma(p, r, set1(8.3334519073e-3F));
  p = fma(p, r, set1(4.1665795894e-2F));
  p = fma(p, r, set1(1.6666665459e-1F));
  p = fma(p, r, set1(5.0000001201e-1F));
  const F y = add(fma(p, mul(r, r), r), set1(1.0F));
  return zero_below(mul(y, exp2_of_shifted(shifted)), x, lowest);
}

}  // namespace
}  // namespace phi3::cpu::PHI3_ISA
