// Sixteen float lanes from four 128-bit compiler vectors; any CPU. Included by vec.h only.
#pragma once

#include <cstdint>

namespace phi3::cpu::PHI3_ISA {
namespace {

using Quad = float __attribute__((vector_size(16)));
using QuadBits = std::uint32_t __attribute__((vector_size(16)));

struct F {
  Quad q0, q1, q2, q3;
};
struct Bits {
  QuadBits q0, q1, q2, q3;
};

constexpr int kAccumulators = 2;  // F that fit in the vector registers beside the operands
constexpr int kRegisterRows = 2;  // most rows of a register tile

inline F zero() { return {Quad{}, Quad{}, Quad{}, Quad{}}; }
inline Quad quad(float x) { return Quad{x, x, x, x}; }
inline F set1(float x) { return {quad(x), quad(x), quad(x), quad(x)}; }
inline F load(const float* p) {
  F v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, F v) { __builtin_memcpy(p, &v, sizeof v); }

inline F add(F a, F b) { return {a.q0 + b.q0, a.q1 + b.q1, a.q2 + b.q2, a.q3 + b.q3}; }
inline F sub(F a, F b) { return {a.q0 - b.q0, a.q1 - b.q1, a.q2 - b.q2, a.q3 - b.q3}; }
inline F mul(F a, F b) { return {a.q0 * b.q0, a.q1 * b.q1, a.q2 * b.q2, a.q3 * b.q3}; }
inline F div(F a, F b) { return {a.q0 / b.q0, a.q1 / b.q1, a.q2 / b.q2, a.q3 / b.q3}; }

// Rounded once, as the instruction of other ISAs: the product is exact in double, and a sum rounded
// to odd (Boldo and Melquiond 2008) can be rounded to float without error.
#if defined(__FP_FAST_FMAF)
inline Quad fma4(Quad a, Quad b, Quad c) {
  Quad v;
  for (int i = 0; i < 4; ++i) v[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return v;
}
#else
using Pair = double __attribute__((vector_size(16)));
using PairBits = std::int64_t __attribute__((vector_size(16)));
using Floats = float __attribute__((vector_size(8)));
// Two at a time: between multiply-adds that follow each other GCC 12 (-ftree-slp-vectorize) leaves
// out the rounding to float of lanes that are converted one by one.
inline Pair widen(float x, float y) { return __builtin_convertvector((Floats{x, y}), Pair); }
inline Pair fma2(Pair a, Pair b, Pair c) {
  const Pair product = a * b;
  const Pair sum = product + c;
  const Pair c_part = sum - product;
  const Pair error = (product - (sum - c_part)) + (c - c_part);
  const PairBits is_inexact = (error > 0.0) | (error < 0.0);
  const PairBits bits = (PairBits)sum;
  const PairBits is_even = (bits & 1) == 0;
  const PairBits step = ((error < 0.0) ^ (sum < 0.0)) | 1;  // -1 or 1, away from 0 or towards it
  return (Pair)(bits + (step & is_inexact & is_even));
}
inline Quad fma4(Quad a, Quad b, Quad c) {
  const Pair low = fma2(widen(a[0], a[1]), widen(b[0], b[1]), widen(c[0], c[1]));
  const Pair high = fma2(widen(a[2], a[3]), widen(b[2], b[3]), widen(c[2], c[3]));
  const Floats first = __builtin_convertvector(low, Floats);
  const Floats last = __builtin_convertvector(high, Floats);
  return Quad{first[0], first[1], last[0], last[1]};
}
#endif
inline F fma(F a, F b, F c) {
  return {fma4(a.q0, b.q0, c.q0),
          fma4(a.q1, b.q1, c.q1),
          fma4(a.q2, b.q2, c.q2),
          fma4(a.q3, b.q3, c.q3)};
}
// a · b + c where a · b is exact in float32, as of bfloat16 in all but the last of its range.
inline F add_exact_product(F a, F b, F c) { return add(mul(a, b), c); }

// As the x86 instructions: the second operand when either is NaN.
inline Quad max4(Quad a, Quad b) { return a > b ? a : b; }
inline Quad min4(Quad a, Quad b) { return a < b ? a : b; }
inline F max(F a, F b) {
  return {max4(a.q0, b.q0), max4(a.q1, b.q1), max4(a.q2, b.q2), max4(a.q3, b.q3)};
}
inline F min(F a, F b) {
  return {min4(a.q0, b.q0), min4(a.q1, b.q1), min4(a.q2, b.q2), min4(a.q3, b.q3)};
}

// 0 where x < limit, else y.
inline Quad zero_below4(Quad y, Quad x, Quad limit) { return x < limit ? Quad{} : y; }
inline F zero_below(F y, F x, F limit) {
  return {zero_below4(y.q0, x.q0, limit.q0),
          zero_below4(y.q1, x.q1, limit.q1),
          zero_below4(y.q2, x.q2, limit.q2),
          zero_below4(y.q3, x.q3, limit.q3)};
}

// x where it is an infinity, else y.
inline Quad or_infinity4(Quad y, Quad x) {
  const Quad infinity = quad(__builtin_inff());
  return (x == infinity) | (x == -infinity) ? x : y;
}
inline F or_infinity(F y, F x) {
  return {or_infinity4(y.q0, x.q0),
          or_infinity4(y.q1, x.q1),
          or_infinity4(y.q2, x.q2),
          or_infinity4(y.q3, x.q3)};
}

// 2^n from t = 1.5 · 2^23 + n.
inline Quad exp2_4(Quad t) { return (Quad)(((QuadBits)t << 23) + 0x3f800000U); }
inline F exp2_of_shifted(F t) { return {exp2_4(t.q0), exp2_4(t.q1), exp2_4(t.q2), exp2_4(t.q3)}; }

// x where a < b, else y.
inline Quad where_less4(Quad a, Quad b, Quad x, Quad y) { return a < b ? x : y; }
inline F where_less(F a, F b, F x, F y) {
  return {where_less4(a.q0, b.q0, x.q0, y.q0),
          where_less4(a.q1, b.q1, x.q1, y.q1),
          where_less4(a.q2, b.q2, x.q2, y.q2),
          where_less4(a.q3, b.q3, x.q3, y.q3)};
}

inline bool any_nan(F v) {
  const auto n0 = v.q0 != v.q0, n1 = v.q1 != v.q1, n2 = v.q2 != v.q2, n3 = v.q3 != v.q3;
  const auto n = n0 | n1 | n2 | n3;
  return (n[0] | n[1] | n[2] | n[3]) != 0;
}

// Bfloat16 pairs: lane i holds elements 2i (low half) and 2i + 1 (high half).
inline Bits load_pairs(const std::uint16_t* p) {
  Bits v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline Bits broadcast_pair(const std::uint16_t* p) {
  std::uint32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  const QuadBits q = {pair, pair, pair, pair};
  return {q, q, q, q};
}
inline F even(Bits v) {
  return {(Quad)(v.q0 << 16), (Quad)(v.q1 << 16), (Quad)(v.q2 << 16), (Quad)(v.q3 << 16)};
}
inline F odd(Bits v) {
  constexpr std::uint32_t kHigh = 0xffff0000U;
  return {(Quad)(v.q0 & kHigh), (Quad)(v.q1 & kHigh), (Quad)(v.q2 & kHigh), (Quad)(v.q3 & kHigh)};
}

inline Quad widen4(const std::uint16_t* p) {
  const QuadBits bits = {p[0], p[1], p[2], p[3]};
  return (Quad)(bits << 16);
}
inline F load_bf16(const std::uint16_t* p) {
  return {widen4(p), widen4(p + 4), widen4(p + 8), widen4(p + 12)};
}
inline void narrow4(std::uint16_t* p, Quad v) {
  const QuadBits bits = (QuadBits)v;
  const QuadBits rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const QuadBits quiet = (bits >> 16) | 0x40U;
  const QuadBits out = v != v ? quiet : rounded;
  for (int i = 0; i < 4; ++i) p[i] = static_cast<std::uint16_t>(out[i]);
}
inline void store_bf16(std::uint16_t* p, F v) {
  narrow4(p, v.q0);
  narrow4(p + 4, v.q1);
  narrow4(p + 8, v.q2);
  narrow4(p + 12, v.q3);
}

inline Quad widen_int8(const std::int8_t* p) {
  using Integers = std::int32_t __attribute__((vector_size(16)));
  return __builtin_convertvector((Integers{p[0], p[1], p[2], p[3]}), Quad);
}
inline F load_int8(const std::int8_t* p) {
  return {widen_int8(p), widen_int8(p + 4), widen_int8(p + 8), widen_int8(p + 12)};
}

// Of integers from -128 to 127.
inline void store_int8(std::int8_t* p, F v) {
  float lane[16];
  store(lane, v);
  for (int i = 0; i < 16; ++i) p[i] = static_cast<std::int8_t>(lane[i]);
}

inline void prefetch(const void* p) { __builtin_prefetch(p); }

}  // namespace
}  // namespace phi3::cpu::PHI3_ISA
