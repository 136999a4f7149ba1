// A panel of sixteen weight rows, one per lane, into the integer formats of weight_format.h.
#include "cpu/kernels/functions.h"
#include "cpu/kernels/quantized_row.h"

namespace phi3::cpu::PHI3_ISA {
namespace {

constexpr float kLargestMultiplier = 15.0F;
constexpr float kLargestNumber = 15.0F;  // q
constexpr float kMiddle = 8.0F;          // z where symmetric

inline F magnitude(F v) { return max(v, sub(zero(), v)); }
inline F clamp(F v, float low, float high) { return max(set1(low), min(set1(high), v)); }

// What is said of each row beside its numbers.
struct RowSums {
  F errors = zero();      // Σ (weight - stored)²
  F magnitudes = zero();  // Σ |weight|
};

// Stores each row's scale; NaN for one with a weight that is not finite, whose numbers are all 0.
struct RowScales {
  F scale;    // to divide by: above 0
  F is_kept;  // 1, or 0 where all numbers are 0
  float stored[kLanes];

  RowScales(F wanted, std::uint8_t* panel) {
    float lane[kLanes];
    float kept[kLanes];
    store(lane, wanted);
    for (int i = 0; i < kLanes; ++i) {
      const bool is_positive = lane[i] > 0.0F && lane[i] <= __FLT_MAX__;
      kept[i] = is_positive ? 1.0F : 0.0F;
      stored[i] = is_positive || lane[i] == 0.0F ? lane[i] : __builtin_nanf("");
      lane[i] = is_positive ? lane[i] : 1.0F;
    }
    scale = load(lane);
    is_kept = load(kept);
    __builtin_memcpy(panel, stored, sizeof stored);
  }
};

// NaN in the lanes where a weight is not finite.
F largest_magnitudes(const float* weights, std::int64_t k) {
  F largest = zero();
  F poison = zero();
  for (std::int64_t i = 0; i < k; ++i) {
    const F v = load(weights + i * kLanes);
    largest = max(largest, magnitude(v));
    poison = fma(v, zero(), poison);  // NaN for NaN and infinities
  }
  return add(largest, poison);
}

RowSums quantize_int8(const float* weights, std::int64_t k, std::uint8_t* panel) {
  const RowScales rows(div(largest_magnitudes(weights, k), set1(kLargestInt8)), panel);
  std::uint8_t* numbers = panel + kRowScaleBytes;
  RowSums sums;
  for (std::int64_t i = 0; i < k; ++i) {
    const F v = load(weights + i * kLanes);
    const F rounded = clamp(round_even(div(v, rows.scale)), -127.0F, 127.0F);
    const F number = where_less(zero(), rows.is_kept, rounded, zero());
    const F error = sub(v, mul(number, rows.scale));
    sums.errors = fma(error, error, sums.errors);
    sums.magnitudes = add(sums.magnitudes, magnitude(v));
    std::int8_t lane[kLanes];
    store_int8(lane, number);
    for (int r = 0; r < kLanes; ++r) {
      numbers[i / 4 * 4 * kLanes + r * 4 + i % 4] =
          static_cast<std::uint8_t>(lane[r] + kWeightOffset);
    }
  }
  return sums;
}

// One way to store a group.
struct Choice {
  F multiplier, zero;  // S, z
  F error;             // Σ (weight - stored)² with it
};

struct Group {
  const float* weights;  // [size][16]
  std::int64_t size;
  F low, high;  // of the weights and 0

  Group(const float* first, std::int64_t count) : weights(first), size(count) {
    low = high = PHI3_ISA::zero();
    for (std::int64_t i = 0; i < size; ++i) {
      low = min(low, load(weights + i * kLanes));
      high = max(high, load(weights + i * kLanes));
    }
  }

  // q of each weight, from 0 to 15, for a step and its reciprocal.
  F number(std::int64_t i, F reciprocal, F zero) const {
    const F q = add(round_even(mul(load(weights + i * kLanes), reciprocal)), zero);
    return clamp(q, 0.0F, kLargestNumber);
  }

  F error(F step, F zero) const {
    const F reciprocal = div(set1(1.0F), step);
    F sum = PHI3_ISA::zero();
    for (std::int64_t i = 0; i < size; ++i) {
      const F v = sub(number(i, reciprocal, zero), zero);
      const F error = sub(mul(v, step), load(weights + i * kLanes));
      sum = fma(error, error, sum);
    }
    return sum;
  }
};

// The step that would be best for a group if any were possible; 0 for a group of zeros.
F wanted_step(const Group& group, bool with_minimum) {
  if (with_minimum) return div(sub(group.high, group.low), set1(kLargestNumber));
  const F largest = max(group.high, sub(zero(), group.low));
  const F at_least = max(largest, set1(__FLT_MIN__));
  F best_step = largest;
  F best_error = set1(__FLT_MAX__);
  for (const float steps : {8.0F, 7.5F, 7.0F, 6.5F, 6.0F}) {
    const F step = div(at_least, set1(steps));
    const F error = group.error(step, set1(kMiddle));
    best_step = where_less(error, best_error, div(largest, set1(steps)), best_step);
    best_error = min(error, best_error);
  }
  return best_step;
}

// The best of a few multipliers, and zeros, around what the group wants.
Choice choose(const Group& group, F scale, F wanted, bool with_minimum) {
  const F multiplier = round_even(min(set1(100.0F), div(wanted, scale)));
  Choice best = {set1(1.0F), set1(kMiddle), set1(__builtin_inff())};
  for (float more = with_minimum ? -2.0F : -1.0F; more <= 1.0F; more += 1.0F) {
    const F s = clamp(add(multiplier, set1(more)), 1.0F, kLargestMultiplier);
    const F step = mul(s, scale);
    const F middle = sub(set1(7.5F), div(add(group.low, group.high), mul(set1(2.0F), step)));
    for (float shift = with_minimum ? -1.0F : 0.0F; shift <= (with_minimum ? 1.0F : 0.0F);
         shift += 1.0F) {
      const F z = with_minimum ? clamp(round_even(add(clamp(middle, -100.0F, 100.0F), set1(shift))),
                                       0.0F,
                                       kLargestNumber)
                               : set1(kMiddle);
      // (q - z) · S must fit in a signed byte.
      const F above = mul(sub(set1(kLargestNumber), z), s);
      const F below = mul(z, s);
      F error = group.error(step, z);
      error = where_less(set1(127.0F), above, set1(__builtin_inff()), error);
      error = where_less(set1(128.0F), below, set1(__builtin_inff()), error);
      best.multiplier = where_less(error, best.error, s, best.multiplier);
      best.zero = where_less(error, best.error, z, best.zero);
      best.error = min(error, best.error);
    }
  }
  return best;
}

inline void store_lanes(F v, std::uint8_t (&lane)[kLanes]) {
  std::int8_t values[kLanes];
  store_int8(values, v);
  __builtin_memcpy(lane, values, sizeof lane);
}

void store_choice(WeightFormat format, std::int64_t k, const Choice& choice, std::uint8_t* panel) {
  std::uint8_t multiplier[kLanes];
  std::uint8_t zero[kLanes];
  store_lanes(choice.multiplier, multiplier);
  store_lanes(choice.zero, zero);
  const std::int64_t group = k % block_k(format) / group_size(format);
  std::uint8_t* out = panel + block_offset(format, k);
  for (int r = 0; r < kLanes; ++r) {
    if (format != WeightFormat::kInt4Group32) {
      out[group * kLanes + r] = static_cast<std::uint8_t>(multiplier[r] | zero[r] << 4);
    } else if (group % 2 == 0) {
      out[group / 2 * kLanes + r] = multiplier[r];
    } else {
      out[group / 2 * kLanes + r] |= static_cast<std::uint8_t>(multiplier[r] << 4);
    }
  }
}

void store_numbers(WeightFormat format, std::int64_t k, F number, std::uint8_t* panel) {
  std::uint8_t lane[kLanes];
  store_lanes(number, lane);
  const std::int64_t quads = k % block_k(format) / 8;
  std::uint8_t* out = panel + block_offset(format, k) + kGroupBytes + quads * 4 * kLanes + k % 4;
  for (int r = 0; r < kLanes; ++r) {
    std::uint8_t& byte = out[r * 4];
    byte = static_cast<std::uint8_t>(k % 8 < 4 ? lane[r] : byte | lane[r] << 4);
  }
}

RowSums quantize_int4(
    WeightFormat format, const float* weights, std::int64_t k, float* wanted, std::uint8_t* panel) {
  const bool with_minimum = has_minimum(format);
  const std::int64_t size = group_size(format);
  const F largest = largest_magnitudes(weights, k);
  F largest_step = zero();
  for (std::int64_t g = 0; g < k / size; ++g) {
    const F step = wanted_step(Group(weights + g * size * kLanes, size), with_minimum);
    store(wanted + g * kLanes, step);
    largest_step = max(largest_step, step);
  }
  F scale = div(largest_step, set1(kLargestMultiplier));
  if (with_minimum) scale = max(scale, div(largest, set1(127.0F)));
  // `largest` adds the NaN of rows that are not finite.
  RowScales rows(fma(largest, zero(), scale), panel);
  __builtin_memset(
      panel + numbers_offset(format), 0, static_cast<unsigned long>(number_bytes(format, k)));
  F products = zero();  // Σ weight · v
  F squares = zero();   // Σ v²
  F energy = zero();    // Σ weight²
  RowSums sums;
  for (std::int64_t g = 0; g < k / size; ++g) {
    const Group group(weights + g * size * kLanes, size);
    Choice choice = choose(group, rows.scale, load(wanted + g * kLanes), with_minimum);
    choice.multiplier = max(set1(1.0F), mul(rows.is_kept, choice.multiplier));
    store_choice(format, g * size, choice, panel);
    const F reciprocal = div(set1(1.0F), mul(choice.multiplier, rows.scale));
    for (std::int64_t i = 0; i < size; ++i) {
      const F v = load(group.weights + i * kLanes);
      const F number =
          where_less(zero(), rows.is_kept, group.number(i, reciprocal, choice.zero), choice.zero);
      store_numbers(format, g * size + i, number, panel);
      const F stored = mul(sub(number, choice.zero), choice.multiplier);
      products = fma(v, stored, products);
      squares = fma(stored, stored, squares);
      energy = fma(v, v, energy);
      sums.magnitudes = add(sums.magnitudes, magnitude(v));
    }
  }
  // The scale that is best for the numbers chosen.
  const F fitted = where_less(zero(), squares, div(products, squares), rows.scale);
  store(rows.stored, where_less(zero(), rows.is_kept, fitted, load(rows.stored)));
  __builtin_memcpy(panel, rows.stored, sizeof rows.stored);
  sums.errors = max(zero(), sub(energy, mul(fitted, products)));
  return sums;
}

}  // namespace

void quantize_panel(WeightFormat format,
                    const float* weights,
                    std::int64_t k,
                    float* workspace,
                    std::uint8_t* panel,
                    float* errors,
                    float* magnitudes) {
  const RowSums sums = is_int4(format) ? quantize_int4(format, weights, k, workspace, panel)
                                       : quantize_int8(weights, k, panel);
  store(errors, sums.errors);
  store(magnitudes, sums.magnitudes);
}

}  // namespace phi3::cpu::PHI3_ISA
