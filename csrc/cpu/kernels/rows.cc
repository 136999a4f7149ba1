// Kernels over one row of numbers: epilogues, exponentials.
#include "cpu/kernels/functions.h"
#include "cpu/kernels/groups.h"

namespace phi3::cpu::PHI3_ISA {
namespace {

template <typename T>
void add_to(float* dst, const T* src, std::int64_t n) {
  for_each_group(
      n,
      [&](std::int64_t i) { store(dst + i, add(load(dst + i), load(src + i))); },
      [&](std::int64_t i, std::int64_t count) {
        store_first(dst + i, add(load_first(dst + i, count), load_first(src + i, count)), count);
      });
}

inline F silu_mul(F gate, F up) {
  return mul(div(gate, add(set1(1.0F), exp(sub(zero(), gate)))), up);
}

// x · sigmoid(1.702 x), which is close to gelu (Hendrycks and Gimpel 2016, §2).
inline F quick_gelu(F x) { return div(x, add(set1(1.0F), exp(mul(set1(-1.702F), x)))); }

inline F gegelu(F gate, F up, F limit) {
  const F a = or_infinity(min(limit, gate), gate);
  const F b = or_infinity(max(sub(zero(), limit), min(limit, up)), up);
  return mul(quick_gelu(a), add(b, set1(1.0F)));
}

template <typename T, typename Activate>
void activate_pairs(const float* values, std::int64_t num_pairs, void* out, Activate activate) {
  auto* to = static_cast<T*>(out);
  for (std::int64_t pair = 0; pair < num_pairs; ++pair) {
    const float* gate = values + pair * 2 * kLanes;
    store(to + pair * kLanes, activate(load(gate), load(gate + kLanes)));
  }
}

}  // namespace

void to_bf16(const float* src, void* dst, std::int64_t n) {
  auto* out = static_cast<std::uint16_t*>(dst);
  for_each_group(
      n,
      [&](std::int64_t i) { store(out + i, load(src + i)); },
      [&](std::int64_t i, std::int64_t count) {
        store_first(out + i, load_first(src + i, count), count);
      });
}

void add_f32(float* dst, const void* src, std::int64_t n) {
  add_to(dst, static_cast<const float*>(src), n);
}
void add_bf16(float* dst, const void* src, std::int64_t n) {
  add_to(dst, static_cast<const std::uint16_t*>(src), n);
}

void silu_mul_f32(const float* values, std::int64_t num_pairs, void* out) {
  activate_pairs<float>(values, num_pairs, out, silu_mul);
}
void silu_mul_bf16(const float* values, std::int64_t num_pairs, void* out) {
  activate_pairs<std::uint16_t>(values, num_pairs, out, silu_mul);
}

void gegelu_mul_f32(const float* values, float limit, std::int64_t num_pairs, void* out) {
  const F limits = set1(limit);
  activate_pairs<float>(
      values, num_pairs, out, [&](F gate, F up) { return gegelu(gate, up, limits); });
}
void gegelu_mul_bf16(const float* values, float limit, std::int64_t num_pairs, void* out) {
  const F limits = set1(limit);
  activate_pairs<std::uint16_t>(
      values, num_pairs, out, [&](F gate, F up) { return gegelu(gate, up, limits); });
}

float exp_scalar(float x) { return first_lane(exp(set1(x))); }

float max_value(const float* x, std::int64_t n) {
  const F lowest = set1(-__builtin_inff());
  F best = lowest;
  bool has_nan = false;
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const F v = load(x + i);
    has_nan |= any_nan(v);
    best = max(best, v);
  }
  float result = max_lanes(best);
  for (; i < n; ++i) {
    has_nan |= x[i] != x[i];
    result = x[i] > result ? x[i] : result;
  }
  return has_nan ? __builtin_nanf("") : result;
}

double exp_sum(const float* x, float max, float temperature, float* weights, std::int64_t n) {
  // Blocks are short enough for float32 and are added up in double: a vocabulary of small weights
  // beside a large one would lose them otherwise.
  constexpr std::int64_t kBlock = 256;
  const F shift = set1(max);
  const F divisor = set1(temperature);
  double total = 0;
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t end = n - begin < kBlock ? n : begin + kBlock;
    F sum = zero();
    std::int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      const F weight = exp(div(sub(load(x + i), shift), divisor));
      if (weights != nullptr) store(weights + i, weight);
      sum = add(sum, weight);
    }
    if (i < end) {
      const std::int64_t count = end - i;
      float lane[kLanes];
      store(lane, exp(div(sub(load_first(x + i, count), shift), divisor)));
      for (std::int64_t rest = count; rest < kLanes; ++rest) lane[rest] = 0.0F;
      if (weights != nullptr) {
        __builtin_memcpy(weights + i, lane, static_cast<unsigned long>(count) * sizeof(float));
      }
      sum = add(sum, load(lane));
    }
    total += sum_lanes(sum);
  }
  return total;
}

}  // namespace phi3::cpu::PHI3_ISA
