// Declarations of the kernels of the ISA being compiled; table.cc joins them. Contracts: kernels.h.
#pragma once

#include <cstdint>

#include "cpu/kernels/kernels.h"

#define PHI3_STRINGIFY(x) #x
#define PHI3_NAME(x) PHI3_STRINGIFY(x)

namespace phi3::cpu::PHI3_ISA {

constexpr const char* kIsaName = PHI3_NAME(PHI3_ISA);

void gemm_f32(const GemmTile& tile);
void gemm_bf16(const GemmTile& tile);
void gemm_int8(const GemmTile& tile);
void gemm_u8(const IntegerTile& tile);
void gemm_u4(const IntegerTile& tile);
void expand_u4(WeightFormat format, const void* blocks, std::int64_t k, std::uint8_t* out);
void dequantize(const IntegerSums& tile);

void softmax_span(float* scores, int first, int last, float scale, float* max, float* sum);
void values_f32(const ValueTile& tile);
void values_bf16(const ValueTile& tile);
void values_int8(const ValueTile& tile);
void scale_keys(float* x, const float* const* scales, int first, int last);
void merge(float* o, const float* span, float a, float b, std::int64_t n);
void scale_to_f32(const float* o, float factor, void* out, std::int64_t n);
void scale_to_bf16(const float* o, float factor, void* out, std::int64_t n);

void rms_norm_f32(const float* h, const void* weight, float eps, void* out, std::int64_t n);
void rms_norm_bf16(const float* h, const void* weight, float eps, void* out, std::int64_t n);
void layer_norm_f32(
    const float* h, const void* weight, const void* bias, float eps, void* out, std::int64_t n);
void layer_norm_bf16(
    const float* h, const void* weight, const void* bias, float eps, void* out, std::int64_t n);
void rms_norm_f32_quantized(
    const float* h, const void* weight, float eps, void* out, std::int64_t n);
void rms_norm_bf16_quantized(
    const float* h, const void* weight, float eps, void* out, std::int64_t n);
void layer_norm_f32_quantized(
    const float* h, const void* weight, const void* bias, float eps, void* out, std::int64_t n);
void layer_norm_bf16_quantized(
    const float* h, const void* weight, const void* bias, float eps, void* out, std::int64_t n);
void quantize_row_f32(const void* x, void* row, std::int64_t n);
void quantize_row_bf16(const void* x, void* row, std::int64_t n);
void quantize_panel(WeightFormat format,
                    const float* weights,
                    std::int64_t k,
                    float* workspace,
                    std::uint8_t* panel,
                    float* errors,
                    float* magnitudes);
void to_bf16(const float* src, void* dst, std::int64_t n);
float quantize(const float* x, std::int8_t* out, std::int64_t n);
void add_f32(float* dst, const void* src, std::int64_t n);
void add_bf16(float* dst, const void* src, std::int64_t n);
void silu_mul_f32(const float* values, std::int64_t num_pairs, void* out);
void silu_mul_bf16(const float* values, std::int64_t num_pairs, void* out);
void gegelu_mul_f32(const float* values, float limit, std::int64_t num_pairs, void* out);
void gegelu_mul_bf16(const float* values, float limit, std::int64_t num_pairs, void* out);

float exp_scalar(float x);
float max_value(const float* x, std::int64_t n);
double exp_sum(const float* x, float max, float temperature, float* weights, std::int64_t n);

}  // namespace phi3::cpu::PHI3_ISA
