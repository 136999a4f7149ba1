// Sixteen int32 lanes and the bytes behind them in two AVX registers; with AVX-VNNI where the ISA
// has it. Included by integer.h only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace phi3::cpu::PHI3_ISA {
namespace {

struct Integers {
  __m256i lo, hi;
};
using Bytes = Integers;

constexpr int kIntegerAccumulators = 4;  // Integers that fit in registers beside the operands
constexpr int kIntegerRows = 4;          // most rows of a register tile

inline __m256i load_half(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline void store_half(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

inline Integers zero_integers() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Integers load_integers(const std::int32_t* p) { return {load_half(p), load_half(p + 8)}; }
inline void store_integers(std::int32_t* p, Integers v) {
  store_half(p, v.lo);
  store_half(p + 8, v.hi);
}

inline Integers same_integers(std::int32_t v) {
  return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)};
}
inline Integers subtract(Integers a, Integers b) {
  return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}
inline F to_floats(Integers v) { return {_mm256_cvtepi32_ps(v.lo), _mm256_cvtepi32_ps(v.hi)}; }

inline Bytes load_bytes(const std::uint8_t* p) { return {load_half(p), load_half(p + 32)}; }
inline void store_bytes(std::uint8_t* p, Bytes v) {
  store_half(p, v.lo);
  store_half(p + 32, v.hi);
}
inline Bytes low_nibbles(Bytes v) {
  const __m256i mask = _mm256_set1_epi8(0x0f);
  return {_mm256_and_si256(v.lo, mask), _mm256_and_si256(v.hi, mask)};
}
inline Bytes high_nibbles(Bytes v) {
  return low_nibbles({_mm256_srli_epi16(v.lo, 4), _mm256_srli_epi16(v.hi, 4)});
}

// Sixteen bytes in the four bytes of each lane.
inline __m256i spread8(const std::uint8_t* p) {
  const __m256i lanes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  const __m128i copies = _mm_set_epi8(12, 12, 12, 12, 8, 8, 8, 8, 4, 4, 4, 4, 0, 0, 0, 0);
  return _mm256_shuffle_epi8(lanes, _mm256_broadcastsi128_si256(copies));
}
inline Bytes spread(const std::uint8_t* p) { return {spread8(p), spread8(p + 8)}; }
// Of products and sums that fit in a byte; `factor` in the low half of every 16 bits.
inline Bytes multiply(Bytes v, Bytes factor) {
  return {_mm256_mullo_epi16(v.lo, factor.lo), _mm256_mullo_epi16(v.hi, factor.hi)};
}
inline Bytes add_bytes(Bytes a, Bytes b) {
  return {_mm256_add_epi8(a.lo, b.lo), _mm256_add_epi8(a.hi, b.hi)};
}
inline Bytes subtract_bytes(Bytes a, Bytes b) {
  return {_mm256_sub_epi8(a.lo, b.lo), _mm256_sub_epi8(a.hi, b.hi)};
}
inline Bytes low_halves(Bytes v) {
  const __m256i mask = _mm256_set1_epi16(0x00ff);
  return {_mm256_and_si256(v.lo, mask), _mm256_and_si256(v.hi, mask)};
}
inline Bytes same_bytes(int v) {
  const __m256i bytes = _mm256_set1_epi8(static_cast<char>(v));
  return {bytes, bytes};
}

using Activations = __m256i;

inline Activations broadcast_quad(const std::int8_t* p) {
  int quad;
  __builtin_memcpy(&quad, p, sizeof quad);
  return _mm256_set1_epi32(quad);
}

#if defined(PHI3_HAS_VNNI)

using Weights = Bytes;

inline Weights weights_of(Bytes v) { return v; }
inline Integers add_dot(Integers sum, const Weights& w, Activations x) {
  return {_mm256_dpbusd_avx_epi32(sum.lo, w.lo, x), _mm256_dpbusd_avx_epi32(sum.hi, w.hi, x)};
}

#else

// VPMADDUBSW saturates at 16 bits: with magnitudes of at most 128 it never has to. So the sign of a
// weight goes to the activation, and the weights' offset is gone.
struct Weights {
  Bytes magnitude, value;
};

inline Weights weights_of(Bytes v) {
  const __m256i offset = _mm256_set1_epi8(static_cast<char>(0x80));
  const Bytes value = {_mm256_xor_si256(v.lo, offset), _mm256_xor_si256(v.hi, offset)};
  return {{_mm256_abs_epi8(value.lo), _mm256_abs_epi8(value.hi)}, value};
}
inline __m256i add_dot8(__m256i sum, __m256i magnitude, __m256i value, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, value));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline Integers add_dot(Integers sum, const Weights& w, Activations x) {
  return {add_dot8(sum.lo, w.magnitude.lo, w.value.lo, x),
          add_dot8(sum.hi, w.magnitude.hi, w.value.hi, x)};
}

#endif

}  // namespace
}  // namespace phi3::cpu::PHI3_ISA
