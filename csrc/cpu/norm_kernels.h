// The kernel of a norm for its weights' dtype, and for what it writes.
#pragma once

#include "core/dtype.h"
#include "cpu/isa.h"

namespace phi3::cpu {

inline auto rms_norm_kernel(const Kernels& isa, DType dtype, bool is_quantized) {
  const bool is_bf16 = dtype == DType::kBFloat16;
  if (is_quantized) return is_bf16 ? isa.rms_norm_bf16_quantized : isa.rms_norm_f32_quantized;
  return is_bf16 ? isa.rms_norm_bf16 : isa.rms_norm_f32;
}

inline auto layer_norm_kernel(const Kernels& isa, DType dtype, bool is_quantized) {
  const bool is_bf16 = dtype == DType::kBFloat16;
  if (is_quantized) return is_bf16 ? isa.layer_norm_bf16_quantized : isa.layer_norm_f32_quantized;
  return is_bf16 ? isa.layer_norm_bf16 : isa.layer_norm_f32;
}

}  // namespace phi3::cpu
