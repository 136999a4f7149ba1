// A row of numbers as int8 and one scale.
#pragma once

#include "core/weight_format.h"
#include "cpu/kernels/groups.h"

namespace phi3::cpu::PHI3_ISA {
namespace {

constexpr float kLargestInt8 = 127.0F;

// Ties to even; |v| < 2^22.
inline F round_even(F v) {
  const F shift = set1(12582912.0F);  // 1.5 · 2^23: adding it rounds to an integer in the low bits
  return sub(add(v, shift), shift);
}

// The largest magnitude of what was seen, or NaN once it is not finite.
struct Magnitude {
  F largest = zero();
  bool is_finite = true;

  void see(F v) {
    is_finite &= !any_nan(v);
    largest = max(largest, max(v, sub(zero(), v)));
  }
  float value() const {
    const float max_abs = max_lanes(largest);
    return is_finite && max_abs <= __FLT_MAX__ ? max_abs : __builtin_nanf("");
  }
};

// x / scale as integers. The limit is of use where the scale is subnormal and has few bits.
inline F quantized(F x, F scale) {
  const F limit = set1(kLargestInt8);
  return round_even(max(sub(zero(), limit), min(limit, div(x, scale))));
}

// What a row of quantized activations says of n values, full(i) sixteen from i on and rest(i,
// count) the last ones, 0 behind them. Both are asked twice. The scale is max|x| / 127; it is NaN,
// and the values 0, if one is not finite.
template <typename Full, typename Rest>
inline void quantize_groups(std::int64_t n, std::int8_t* row, Full full, Rest rest) {
  Magnitude magnitude;
  for_each_group(
      n,
      [&](std::int64_t i) { magnitude.see(full(i)); },
      [&](std::int64_t i, std::int64_t count) { magnitude.see(rest(i, count)); });
  QuantizedRowHeader header = {.scale = magnitude.value() / kLargestInt8, .sum = 0};
  std::int8_t* out = row + kQuantizedHeaderBytes;
  const std::int64_t padded = round_up(n, kIntegerPadding);
  if (!(header.scale > 0.0F)) {
    __builtin_memset(out, 0, static_cast<unsigned long>(padded));
  } else {
    const F scale = set1(header.scale);
    F sum = zero();  // exact: below 2^24
    const auto put = [&](std::int64_t i, F x) {
      const F v = quantized(x, scale);
      sum = add(sum, v);
      store_int8(out + i, v);
    };
    std::int64_t end = 0;
    for_each_group(
        n,
        [&](std::int64_t i) {
          put(i, full(i));
          end = i + kLanes;
        },
        [&](std::int64_t i, std::int64_t count) {
          put(i, rest(i, count));
          end = i + kLanes;
        });
    __builtin_memset(out + end, 0, static_cast<unsigned long>(padded - end));
    header.sum = static_cast<std::int32_t>(sum_lanes(sum));
  }
  __builtin_memcpy(row, &header, sizeof header);
}

}  // namespace
}  // namespace phi3::cpu::PHI3_ISA
