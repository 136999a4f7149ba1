// Kernels over one row of numbers: norms, epilogues, exponentials.
#include "cpu/kernels/functions.h"
#include "cpu/kernels/vec.h"

namespace phi3::cpu::PHI3_ISA {
namespace {

// Calls full(i) for every whole group of 16 and rest(i, count) for what is left.
template <typename Full, typename Rest>
inline void for_each_group(std::int64_t n, Full full, Rest rest) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) full(i);
  if (i < n) rest(i, n - i);
}

// Element i is summed in lane i mod 16, in index order.
template <typename T>
void rms_norm(const float* h, const T* weight, float eps, T* out, std::int64_t n) {
  F squares = zero();
  for_each_group(
      n,
      [&](std::int64_t i) {
        const F v = load(h + i);
        squares = fma(v, v, squares);
      },
      [&](std::int64_t i, std::int64_t count) {
        const F v = load_first(h + i, count);
        squares = fma(v, v, squares);
      });
  const float mean = sum_lanes(squares) / static_cast<float>(n);
  const F factor = set1(1.0F / __builtin_sqrtf(mean + eps));
  for_each_group(
      n,
      [&](std::int64_t i) { store(out + i, mul(mul(load(h + i), factor), load(weight + i))); },
      [&](std::int64_t i, std::int64_t count) {
        const F v = mul(mul(load_first(h + i, count), factor), load_first(weight + i, count));
        store_first(out + i, v, count);
      });
}

// As `v` in the first lanes (0 < count < 16), 0 in the rest.
inline F keep_first(F v, std::int64_t count) {
  float lane[kLanes] = {};
  store_first(lane, v, count);
  return load(lane);
}

// Both sums as in rms_norm.
template <typename T>
void layer_norm(const float* h, const T* weight, const T* bias, float eps, T* out, std::int64_t n) {
  F sum = zero();
  for_each_group(
      n,
      [&](std::int64_t i) { sum = add(sum, load(h + i)); },
      [&](std::int64_t i, std::int64_t count) { sum = add(sum, load_first(h + i, count)); });
  const F mean = set1(sum_lanes(sum) / static_cast<float>(n));
  F squares = zero();
  for_each_group(
      n,
      [&](std::int64_t i) {
        const F v = sub(load(h + i), mean);
        squares = fma(v, v, squares);
      },
      [&](std::int64_t i, std::int64_t count) {
        const F v = keep_first(sub(load_first(h + i, count), mean), count);
        squares = fma(v, v, squares);
      });
  const float variance = sum_lanes(squares) / static_cast<float>(n);
  const F factor = set1(1.0F / __builtin_sqrtf(variance + eps));
  for_each_group(
      n,
      [&](std::int64_t i) {
        const F v = mul(sub(load(h + i), mean), factor);
        store(out + i, fma(v, load(weight + i), load(bias + i)));
      },
      [&](std::int64_t i, std::int64_t count) {
        const F v = mul(sub(load_first(h + i, count), mean), factor);
        const F scaled = fma(v, load_first(weight + i, count), load_first(bias + i, count));
        store_first(out + i, scaled, count);
      });
}

template <typename T>
void add_to(float* dst, const T* src, std::int64_t n) {
  for_each_group(
      n,
      [&](std::int64_t i) { store(dst + i, add(load(dst + i), load(src + i))); },
      [&](std::int64_t i, std::int64_t count) {
        store_first(dst + i, add(load_first(dst + i, count), load_first(src + i, count)), count);
      });
}

inline F silu(F x) { return div(x, add(set1(1.0F), exp(sub(zero(), x)))); }

// x · sigmoid(1.702 x), which is close to gelu (Hendrycks and Gimpel 2016, §2).
inline F quick_gelu(F x) { return div(x, add(set1(1.0F), exp(mul(set1(-1.702F), x)))); }

inline F gegelu(F gate, F up, F limit) {
  const F a = or_infinity(min(limit, gate), gate);
  const F b = or_infinity(max(sub(zero(), limit), min(limit, up)), up);
  return mul(quick_gelu(a), add(b, set1(1.0F)));
}

}  // namespace

void rms_norm_f32(const float* h, const void* weight, float eps, void* out, std::int64_t n) {
  rms_norm(h, static_cast<const float*>(weight), eps, static_cast<float*>(out), n);
}
void rms_norm_bf16(const float* h, const void* weight, float eps, void* out, std::int64_t n) {
  rms_norm(h, static_cast<const std::uint16_t*>(weight), eps, static_cast<std::uint16_t*>(out), n);
}

void layer_norm_f32(
    const float* h, const void* weight, const void* bias, float eps, void* out, std::int64_t n) {
  const auto* w = static_cast<const float*>(weight);
  layer_norm(h, w, static_cast<const float*>(bias), eps, static_cast<float*>(out), n);
}
void layer_norm_bf16(
    const float* h, const void* weight, const void* bias, float eps, void* out, std::int64_t n) {
  using Bf16 = std::uint16_t;
  const auto* w = static_cast<const Bf16*>(weight);
  layer_norm(h, w, static_cast<const Bf16*>(bias), eps, static_cast<Bf16*>(out), n);
}

void to_bf16(const float* src, void* dst, std::int64_t n) {
  auto* out = static_cast<std::uint16_t*>(dst);
  for_each_group(
      n,
      [&](std::int64_t i) { store(out + i, load(src + i)); },
      [&](std::int64_t i, std::int64_t count) {
        store_first(out + i, load_first(src + i, count), count);
      });
}

float quantize(const float* x, std::int8_t* out, std::int64_t n) {
  F largest = zero();
  bool is_finite = true;
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const F v = load(x + i);
    is_finite &= !any_nan(v);
    largest = max(largest, max(v, sub(zero(), v)));
  }
  const float max_abs = max_lanes(largest);
  is_finite &= max_abs <= __FLT_MAX__;
  const float scale = max_abs / 127.0F;  // 0 also where it is below the smallest float
  if (!is_finite || scale == 0.0F) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = 0;
    return is_finite ? 0.0F : __builtin_nanf("");
  }
  const F limit = set1(127.0F);       // of use where the scale is subnormal and has few bits
  const F shift = set1(12582912.0F);  // 1.5 · 2^23: adding it rounds to an integer in the low bits
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const F ratio = div(load(x + i), set1(scale));
    const F shifted = add(max(sub(zero(), limit), min(limit, ratio)), shift);
    std::uint32_t bits[kLanes];
    __builtin_memcpy(bits, &shifted, sizeof bits);
    for (int lane = 0; lane < kLanes; ++lane) out[i + lane] = static_cast<std::int8_t>(bits[lane]);
  }
  return scale;
}

void add_f32(float* dst, const void* src, std::int64_t n) {
  add_to(dst, static_cast<const float*>(src), n);
}
void add_bf16(float* dst, const void* src, std::int64_t n) {
  add_to(dst, static_cast<const std::uint16_t*>(src), n);
}

void silu_mul(float* gate, const float* up, std::int64_t n) {
  for_each_group(
      n,
      [&](std::int64_t i) { store(gate + i, mul(silu(load(gate + i)), load(up + i))); },
      [&](std::int64_t i, std::int64_t count) {
        const F v = mul(silu(load_first(gate + i, count)), load_first(up + i, count));
        store_first(gate + i, v, count);
      });
}

void gegelu_mul(float* gate, const float* up, float limit, std::int64_t n) {
  const F limits = set1(limit);
  for_each_group(
      n,
      [&](std::int64_t i) { store(gate + i, gegelu(load(gate + i), load(up + i), limits)); },
      [&](std::int64_t i, std::int64_t count) {
        const F v = gegelu(load_first(gate + i, count), load_first(up + i, count), limits);
        store_first(gate + i, v, count);
      });
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
