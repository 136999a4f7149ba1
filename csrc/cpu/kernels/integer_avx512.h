// Sixteen int32 lanes and the bytes behind them in AVX-512 registers; with VNNI where the ISA has
// it. Included by integer.h only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace phi3::cpu::PHI3_ISA {
namespace {

using Integers = __m512i;
using Bytes = __m512i;

constexpr int kIntegerAccumulators = 24;  // Integers that fit in registers beside the operands
constexpr int kIntegerRows = 8;           // most rows of a register tile

inline Integers zero_integers() { return _mm512_setzero_si512(); }
inline Integers load_integers(const std::int32_t* p) { return _mm512_loadu_si512(p); }
inline void store_integers(std::int32_t* p, Integers v) { _mm512_storeu_si512(p, v); }

inline Integers same_integers(std::int32_t v) { return _mm512_set1_epi32(v); }
inline Integers subtract(Integers a, Integers b) { return _mm512_sub_epi32(a, b); }
inline F to_floats(Integers v) { return _mm512_cvtepi32_ps(v); }

inline Bytes load_bytes(const std::uint8_t* p) { return _mm512_loadu_si512(p); }
inline void store_bytes(std::uint8_t* p, Bytes v) { _mm512_storeu_si512(p, v); }
inline Bytes low_nibbles(Bytes v) { return _mm512_and_si512(v, _mm512_set1_epi8(0x0f)); }
inline Bytes high_nibbles(Bytes v) { return low_nibbles(_mm512_srli_epi16(v, 4)); }

// Sixteen bytes in the four bytes of each lane.
inline Bytes spread(const std::uint8_t* p) {
  const __m512i lanes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m128i copies = _mm_set_epi8(12, 12, 12, 12, 8, 8, 8, 8, 4, 4, 4, 4, 0, 0, 0, 0);
  return _mm512_shuffle_epi8(lanes, _mm512_broadcast_i32x4(copies));
}
// Of products and sums that fit in a byte; `factor` in the low half of every 16 bits.
inline Bytes multiply(Bytes v, Bytes factor) { return _mm512_mullo_epi16(v, factor); }
inline Bytes add_bytes(Bytes a, Bytes b) { return _mm512_add_epi8(a, b); }
inline Bytes subtract_bytes(Bytes a, Bytes b) { return _mm512_sub_epi8(a, b); }
inline Bytes low_halves(Bytes v) { return _mm512_and_si512(v, _mm512_set1_epi16(0x00ff)); }
inline Bytes same_bytes(int v) { return _mm512_set1_epi8(static_cast<char>(v)); }

#if defined(PHI3_HAS_VNNI)

using Weights = Bytes;
using Activations = __m512i;

inline Weights weights_of(Bytes v) { return v; }
inline Activations broadcast_quad(const std::int8_t* p) {
  int quad;
  __builtin_memcpy(&quad, p, sizeof quad);
  return _mm512_set1_epi32(quad);
}
inline Integers add_dot(Integers sum, const Weights& w, const Activations& x) {
  return _mm512_dpbusd_epi32(sum, w, x);
}

#else

// Two products of 16 bits make 32: bytes are split into even and odd ones.
struct Weights {
  __m512i even, odd;
};
struct Activations {
  __m512i even, odd;
};

inline Weights weights_of(Bytes v) { return {low_halves(v), _mm512_srli_epi16(v, 8)}; }
inline Activations broadcast_quad(const std::int8_t* p) {
  int quad;
  __builtin_memcpy(&quad, p, sizeof quad);
  const __m512i x = _mm512_set1_epi32(quad);
  return {_mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8), _mm512_srai_epi16(x, 8)};
}
inline Integers add_dot(Integers sum, const Weights& w, const Activations& x) {
  const __m512i even = _mm512_madd_epi16(w.even, x.even);
  return _mm512_add_epi32(_mm512_add_epi32(sum, even), _mm512_madd_epi16(w.odd, x.odd));
}

#endif

}  // namespace
}  // namespace phi3::cpu::PHI3_ISA
