// Sixteen float lanes from two AVX registers; needs AVX2 and FMA. Included by vec.h only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace phi3::cpu::PHI3_ISA {
namespace {

struct F {
  __m256 lo, hi;
};
struct Bits {
  __m256i lo, hi;
};

constexpr int kAccumulators = 5;  // F that fit in the vector registers beside the operands
constexpr int kRegisterRows = 5;  // most rows of a register tile

inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F v) {
  _mm256_storeu_ps(p, v.lo);
  _mm256_storeu_ps(p + 8, v.hi);
}

inline F add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline F mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline F fma(F a, F b, F c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
// The second operand when either is NaN.
inline F max(F a, F b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline F min(F a, F b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }

// 0 where x < limit, else y.
inline F zero_below(F y, F x, F limit) {
  return {_mm256_andnot_ps(_mm256_cmp_ps(x.lo, limit.lo, _CMP_LT_OQ), y.lo),
          _mm256_andnot_ps(_mm256_cmp_ps(x.hi, limit.hi, _CMP_LT_OQ), y.hi)};
}

// x where it is an infinity, else y.
inline __m256 or_infinity8(__m256 y, __m256 x) {
  const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0F), x);
  const __m256 infinity = _mm256_set1_ps(__builtin_inff());
  return _mm256_blendv_ps(y, x, _mm256_cmp_ps(magnitude, infinity, _CMP_EQ_OQ));
}
inline F or_infinity(F y, F x) { return {or_infinity8(y.lo, x.lo), or_infinity8(y.hi, x.hi)}; }

// 2^n from t = 1.5 · 2^23 + n.
inline __m256 exp2_of_shifted8(__m256 t) {
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(t), 23),
                                              _mm256_set1_epi32(0x3f800000)));
}
inline F exp2_of_shifted(F t) { return {exp2_of_shifted8(t.lo), exp2_of_shifted8(t.hi)}; }

// x where a < b, else y.
inline F where_less(F a, F b, F x, F y) {
  return {_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}

inline bool any_nan(F v) {
  const __m256 lo = _mm256_cmp_ps(v.lo, v.lo, _CMP_UNORD_Q);
  const __m256 hi = _mm256_cmp_ps(v.hi, v.hi, _CMP_UNORD_Q);
  return _mm256_movemask_ps(_mm256_or_ps(lo, hi)) != 0;
}

// Bfloat16 pairs: lane i holds elements 2i (low half) and 2i + 1 (high half).
inline Bits load_pairs(const std::uint16_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16))};
}
inline Bits broadcast_pair(const std::uint16_t* p) {
  int pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return {_mm256_set1_epi32(pair), _mm256_set1_epi32(pair)};
}
inline F even(Bits v) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(v.lo, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(v.hi, 16))};
}
inline F odd(Bits v) {
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000U));
  return {_mm256_castsi256_ps(_mm256_and_si256(v.lo, high)),
          _mm256_castsi256_ps(_mm256_and_si256(v.hi, high))};
}

// a · b + c where a · b is exact in float32.
inline F add_exact_product(F a, F b, F c) { return fma(a, b, c); }

inline __m256 widen8(const std::uint16_t* p) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
inline F load_bf16(const std::uint16_t* p) { return {widen8(p), widen8(p + 8)}; }

inline __m256i narrow8(__m256 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i high = _mm256_srli_epi32(bits, 16);
  const __m256i bias =
      _mm256_add_epi32(_mm256_set1_epi32(0x7fff), _mm256_and_si256(high, _mm256_set1_epi32(1)));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, quiet, is_nan);
}
inline void store_bf16(std::uint16_t* p, F v) {
  const __m256i packed = _mm256_packus_epi32(narrow8(v.lo), narrow8(v.hi));
  // packus works within 128-bit halves; put the four quarters back in order.
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}

inline __m256 widen_int8(const std::int8_t* p) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
inline F load_int8(const std::int8_t* p) { return {widen_int8(p), widen_int8(p + 8)}; }

// Of integers from -128 to 127.
inline void store_int8(std::int8_t* p, F v) {
  const __m256i pairs = _mm256_packs_epi32(_mm256_cvtps_epi32(v.lo), _mm256_cvtps_epi32(v.hi));
  // packs works within 128-bit halves; put the four quarters back in order.
  const __m256i shorts = _mm256_permute4x64_epi64(pairs, 0xd8);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(shorts), _mm256_extracti128_si256(shorts, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

}  // namespace
}  // namespace phi3::cpu::PHI3_ISA
