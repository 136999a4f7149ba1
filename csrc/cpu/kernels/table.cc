// The kernel table of the ISA being compiled.
#include "cpu/kernels/functions.h"
#include "cpu/kernels/vec.h"

#define PHI3_STRINGIFY(x) #x
#define PHI3_NAME(x) PHI3_STRINGIFY(x)

namespace phi3::cpu::PHI3_ISA {

constinit const Kernels kKernels = {
    .name = PHI3_NAME(PHI3_ISA),
    .tile_rows = kRegisterRows,
    .gemm_f32 = gemm_f32,
    .gemm_bf16 = gemm_bf16,
    .gemm_int8 = gemm_int8,
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
    .to_bf16 = to_bf16,
    .quantize = quantize,
    .add_f32 = add_f32,
    .add_bf16 = add_bf16,
    .silu_mul = silu_mul,
    .gegelu_mul = gegelu_mul,
    .exp = exp_scalar,
    .max = max_value,
    .exp_sum = exp_sum,
};

}  // namespace phi3::cpu::PHI3_ISA
