// Sixteen int32 lanes and the bytes behind them in four 128-bit compiler vectors; any CPU. Included
// by integer.h only.
#pragma once

#include <cstdint>

namespace phi3::cpu::PHI3_ISA {
namespace {

using Lanes = std::int32_t __attribute__((vector_size(16)));
using Shorts = std::int16_t __attribute__((vector_size(16)));
using Halves = std::uint16_t __attribute__((vector_size(16)));
using Chars = std::uint8_t __attribute__((vector_size(16)));

struct Integers {
  Lanes part[4];
};
struct Bytes {
  Chars part[4];
};

constexpr int kIntegerAccumulators = 2;  // Integers that fit in registers beside the operands
constexpr int kIntegerRows = 2;          // most rows of a register tile

inline Integers zero_integers() { return {}; }
inline Integers load_integers(const std::int32_t* p) {
  Integers v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store_integers(std::int32_t* p, const Integers& v) {
  __builtin_memcpy(p, &v, sizeof v);
}

inline Integers same_integers(std::int32_t v) {
  const Lanes lanes = {v, v, v, v};
  return {lanes, lanes, lanes, lanes};
}
inline Integers subtract(const Integers& a, const Integers& b) {
  return {
      a.part[0] - b.part[0], a.part[1] - b.part[1], a.part[2] - b.part[2], a.part[3] - b.part[3]};
}
inline Quad to_quad(Lanes v) { return __builtin_convertvector(v, Quad); }
inline F to_floats(const Integers& v) {
  return {to_quad(v.part[0]), to_quad(v.part[1]), to_quad(v.part[2]), to_quad(v.part[3])};
}

inline Bytes load_bytes(const std::uint8_t* p) {
  Bytes v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store_bytes(std::uint8_t* p, const Bytes& v) { __builtin_memcpy(p, &v, sizeof v); }

template <typename Fn>
inline Bytes each(const Bytes& v, Fn fn) {
  return {fn(v.part[0]), fn(v.part[1]), fn(v.part[2]), fn(v.part[3])};
}
template <typename Fn>
inline Bytes each(const Bytes& a, const Bytes& b, Fn fn) {
  return {fn(a.part[0], b.part[0]),
          fn(a.part[1], b.part[1]),
          fn(a.part[2], b.part[2]),
          fn(a.part[3], b.part[3])};
}

inline Bytes low_nibbles(const Bytes& v) {
  return each(v, [](Chars c) { return c & 0x0f; });
}
inline Bytes high_nibbles(const Bytes& v) {
  return each(v, [](Chars c) { return c >> 4; });
}

// Sixteen bytes in the four bytes of each lane.
inline Bytes spread(const std::uint8_t* p) {
  Bytes v;
  for (int lane = 0; lane < 16; ++lane) {
    for (int i = 0; i < 4; ++i) v.part[lane / 4][lane % 4 * 4 + i] = p[lane];
  }
  return v;
}
// Of products and sums that fit in a byte; `factor` in the low half of every 16 bits.
inline Bytes multiply(const Bytes& v, const Bytes& factor) {
  return each(v, factor, [](Chars a, Chars b) { return (Chars)((Halves)a * (Halves)b); });
}
inline Bytes add_bytes(const Bytes& a, const Bytes& b) {
  return each(a, b, [](Chars x, Chars y) { return x + y; });
}
inline Bytes subtract_bytes(const Bytes& a, const Bytes& b) {
  return each(a, b, [](Chars x, Chars y) { return x - y; });
}
inline Chars low_half(Chars v) { return (Chars)((Halves)v & 0x00ff); }
inline Bytes low_halves(const Bytes& v) { return each(v, low_half); }
inline Bytes same_bytes(int v) {
  const Chars bytes = Chars{} + static_cast<std::uint8_t>(v);
  return {bytes, bytes, bytes, bytes};
}

// A product of two bytes fits in 16 bits.
struct Weights {
  Bytes even, odd;
};
struct Activations {
  Shorts even, odd;
};

inline Weights weights_of(const Bytes& v) {
  return {low_halves(v), each(v, [](Chars c) { return (Chars)((Halves)c >> 8); })};
}
inline Activations broadcast_quad(const std::int8_t* p) {
  const Shorts even = {p[0], p[2], p[0], p[2], p[0], p[2], p[0], p[2]};
  const Shorts odd = {p[1], p[3], p[1], p[3], p[1], p[3], p[1], p[3]};
  return {even, odd};
}
inline Lanes add_halves(Lanes sum, Shorts products) {
  const Lanes both = (Lanes)products;
  return sum + ((both << 16) >> 16) + (both >> 16);
}
inline Integers add_dot(const Integers& sum, const Weights& w, const Activations& x) {
  Integers v;
  for (int i = 0; i < 4; ++i) {
    const Lanes even = add_halves(sum.part[i], (Shorts)w.even.part[i] * x.even);
    v.part[i] = add_halves(even, (Shorts)w.odd.part[i] * x.odd);
  }
  return v;
}

}  // namespace
}  // namespace phi3::cpu::PHI3_ISA
