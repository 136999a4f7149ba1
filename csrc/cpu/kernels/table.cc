// The kernel table of the ISA being compiled.
#include "cpu/kernels/functions.h"
#include "cpu/kernels/integer.h"
#include "cpu/kernels/vec.h"

namespace phi3::cpu::PHI3_ISA {

constinit const Kernels kKernels = {
    .name = kIsaName,
    .tile_rows = kRegisterRows,
    .gemm_f32 = gemm_f32,
    .gemm_bf16 = gemm_bf16,
    .gemm_int8 = gemm_int8,
    .integer_tile_rows = kIntegerRows,
    .gemm_u8 = gemm_u8,
    .gemm_u4 = gemm_u4,
    .expand_u4 = expand_u4,
    .dequantize = dequantize,
    .softmax_span = softmax_span,
    .values_f32 = values_f32,
    .values_bf16 = values_bf16,
    .values_int8 = values_int8,
    .scale_keys = scale_keys,
    .merge = merge,
    .scale_to_f32 = scale_to_f32,
    .scale_to_bf16 = scale_to_bf16,
    .rms_norm_f32 = rms_norm_f32,
    .rms_norm_bf16 = rms_norm_bf16,
    .layer_norm_f32 = layer_norm_f32,
    .layer_norm_bf16 = layer_norm_bf16,
    .rms_norm_f32_quantized = rms_norm_f32_quantized,
    .rms_norm_bf16_quantized = rms_norm_bf16_quantized,
    .layer_norm_f32_quantized = layer_norm_f32_quantized,
    .layer_norm_bf16_quantized = layer_norm_bf16_quantized,
    .to_bf16 = to_bf16,
    .quantize_row_f32 = quantize_row_f32,
    .quantize_row_bf16 = quantize_row_bf16,
    .quantize_panel = quantize_panel,
    .quantize = quantize,
    .add_f32 = add_f32,
    .add_bf16 = add_bf16,
    .silu_mul_f32 = silu_mul_f32,
    .silu_mul_bf16 = silu_mul_bf16,
    .gegelu_mul_f32 = gegelu_mul_f32,
    .gegelu_mul_bf16 = gegelu_mul_bf16,
    .exp = exp_scalar,
    .max = max_value,
    .exp_sum = exp_sum,
};

}  // namespace phi3::cpu::PHI3_ISA
