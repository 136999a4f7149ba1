// Activations and KV heads as int8.
#include "cpu/kernels/functions.h"
#include "cpu/kernels/quantized_row.h"

namespace phi3::cpu::PHI3_ISA {
namespace {

template <typename T>
void quantize_row(const T* x, void* row, std::int64_t n) {
  quantize_groups(
      n,
      static_cast<std::int8_t*>(row),
      [&](std::int64_t i) { return load(x + i); },
      [&](std::int64_t i, std::int64_t count) { return load_first(x + i, count); });
}

}  // namespace

void quantize_row_f32(const void* x, void* row, std::int64_t n) {
  quantize_row(static_cast<const float*>(x), row, n);
}
void quantize_row_bf16(const void* x, void* row, std::int64_t n) {
  quantize_row(static_cast<const std::uint16_t*>(x), row, n);
}

float quantize(const float* x, std::int8_t* out, std::int64_t n) {
  Magnitude magnitude;
  for (std::int64_t i = 0; i < n; i += kLanes) magnitude.see(load(x + i));
  const float scale = magnitude.value() / kLargestInt8;  // 0 also where it is below every float
  if (!(scale > 0.0F)) {
    __builtin_memset(out, 0, static_cast<unsigned long>(n));
    return scale;
  }
  for (std::int64_t i = 0; i < n; i += kLanes) {
    store_int8(out + i, quantized(load(x + i), set1(scale)));
  }
  return scale;
}

}  // namespace phi3::cpu::PHI3_ISA
