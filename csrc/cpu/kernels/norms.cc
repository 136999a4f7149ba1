// Norms of one row, into the model dtype or straight into a quantized row.
#include "cpu/kernels/functions.h"
#include "cpu/kernels/groups.h"
#include "cpu/kernels/quantized_row.h"

namespace phi3::cpu::PHI3_ISA {
namespace {

template <typename T>
struct PlainRow {
  T* out;

  template <typename Full, typename Rest>
  void write(std::int64_t n, Full full, Rest rest) const {
    for_each_group(
        n,
        [&](std::int64_t i) { store(out + i, full(i)); },
        [&](std::int64_t i, std::int64_t count) { store_first(out + i, rest(i, count), count); });
  }
};

struct QuantizedRow {
  std::int8_t* out;

  template <typename Full, typename Rest>
  void write(std::int64_t n, Full full, Rest rest) const {
    quantize_groups(n, out, full, [&](std::int64_t i, std::int64_t count) {
      return keep_first(rest(i, count), count);
    });
  }
};

// Element i is summed in lane i mod 16, in index order.
template <typename T, typename Row>
void rms_norm(const float* h, const T* weight, float eps, std::int64_t n, Row row) {
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
  row.write(
      n,
      [&](std::int64_t i) { return mul(mul(load(h + i), factor), load(weight + i)); },
      [&](std::int64_t i, std::int64_t count) {
        return mul(mul(load_first(h + i, count), factor), load_first(weight + i, count));
      });
}

// Both sums as in rms_norm.
template <typename T, typename Row>
void layer_norm(
    const float* h, const T* weight, const T* bias, float eps, std::int64_t n, Row row) {
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
  row.write(
      n,
      [&](std::int64_t i) {
        const F v = mul(sub(load(h + i), mean), factor);
        return fma(v, load(weight + i), load(bias + i));
      },
      [&](std::int64_t i, std::int64_t count) {
        const F v = mul(sub(load_first(h + i, count), mean), factor);
        return fma(v, load_first(weight + i, count), load_first(bias + i, count));
      });
}

using Bf16 = std::uint16_t;

}  // namespace

void rms_norm_f32(const float* h, const void* weight, float eps, void* out, std::int64_t n) {
  rms_norm(h, static_cast<const float*>(weight), eps, n, PlainRow{static_cast<float*>(out)});
}
void rms_norm_bf16(const float* h, const void* weight, float eps, void* out, std::int64_t n) {
  rms_norm(h, static_cast<const Bf16*>(weight), eps, n, PlainRow{static_cast<Bf16*>(out)});
}
void rms_norm_f32_quantized(
    const float* h, const void* weight, float eps, void* out, std::int64_t n) {
  rms_norm(
      h, static_cast<const float*>(weight), eps, n, QuantizedRow{static_cast<std::int8_t*>(out)});
}
void rms_norm_bf16_quantized(
    const float* h, const void* weight, float eps, void* out, std::int64_t n) {
  rms_norm(
      h, static_cast<const Bf16*>(weight), eps, n, QuantizedRow{static_cast<std::int8_t*>(out)});
}

void layer_norm_f32(
    const float* h, const void* weight, const void* bias, float eps, void* out, std::int64_t n) {
  const auto* w = static_cast<const float*>(weight);
  const PlainRow row{static_cast<float*>(out)};
  layer_norm(h, w, static_cast<const float*>(bias), eps, n, row);
}
void layer_norm_bf16(
    const float* h, const void* weight, const void* bias, float eps, void* out, std::int64_t n) {
  const auto* w = static_cast<const Bf16*>(weight);
  const PlainRow row{static_cast<Bf16*>(out)};
  layer_norm(h, w, static_cast<const Bf16*>(bias), eps, n, row);
}
void layer_norm_f32_quantized(
    const float* h, const void* weight, const void* bias, float eps, void* out, std::int64_t n) {
  const auto* w = static_cast<const float*>(weight);
  const QuantizedRow row{static_cast<std::int8_t*>(out)};
  layer_norm(h, w, static_cast<const float*>(bias), eps, n, row);
}
void layer_norm_bf16_quantized(
    const float* h, const void* weight, const void* bias, float eps, void* out, std::int64_t n) {
  const auto* w = static_cast<const Bf16*>(weight);
  const QuantizedRow row{static_cast<std::int8_t*>(out)};
  layer_norm(h, w, static_cast<const Bf16*>(bias), eps, n, row);
}

}  // namespace phi3::cpu::PHI3_ISA
