// Sixteen float lanes in one AVX-512 register; needs F, BW, DQ and VL. Included by vec.h only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace phi3::cpu::PHI3_ISA {
namespace {

using F = __m512;
using Bits = __m512i;

constexpr int kAccumulators = 24;  // F that fit in the vector registers beside the operands
constexpr int kRegisterRows = 6;   // most rows of a register tile

inline F zero() { return _mm512_setzero_ps(); }
inline F set1(float x) { return _mm512_set1_ps(x); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }

inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
// The second operand when either is NaN.
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }

// 0 where x < limit, else y.
inline F zero_below(F y, F x, F limit) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), y);
}

// x where it is an infinity, else y.
inline F or_infinity(F y, F x) {
  const __mmask16 is_infinite =
      _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(__builtin_inff()), _CMP_EQ_OQ);
  return _mm512_mask_mov_ps(y, is_infinite, x);
}

// 2^n from t = 1.5 · 2^23 + n.
inline F exp2_of_shifted(F t) {
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(t), 23),
                                              _mm512_set1_epi32(0x3f800000)));
}

// x where a < b, else y.
inline F where_less(F a, F b, F x, F y) {
  return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), x);
}

inline bool any_nan(F v) { return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q) != 0; }

// Bfloat16 pairs: lane i holds elements 2i (low half) and 2i + 1 (high half).
inline Bits load_pairs(const std::uint16_t* p) { return _mm512_loadu_si512(p); }
inline Bits broadcast_pair(const std::uint16_t* p) {
  int pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return _mm512_set1_epi32(pair);
}
inline F even(Bits v) { return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)); }
inline F odd(Bits v) {
  return _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(static_cast<int>(0xffff0000U))));
}

// a · b + c where a · b is exact in float32.
inline F add_exact_product(F a, F b, F c) { return fma(a, b, c); }
#if defined(PHI3_HAS_BF16)
// Adds the product of the odd halves, then that of the even ones.
inline F dot_pairs(F sum, Bits a, Bits b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
#endif

inline F load_bf16(const std::uint16_t* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
inline void store_bf16(std::uint16_t* p, F v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i high = _mm512_srli_epi32(bits, 16);
  const __m512i bias =
      _mm512_add_epi32(_mm512_set1_epi32(0x7fff), _mm512_and_si512(high, _mm512_set1_epi32(1)));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
  const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, is_nan, quiet)));
}

inline F load_int8(const std::int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

// Of integers from -128 to 127.
inline void store_int8(std::int8_t* p, F v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

}  // namespace
}  // namespace phi3::cpu::PHI3_ISA
