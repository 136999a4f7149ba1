// The per-ISA inner kernels as a table of function pointers.
//
// This header and everything in this folder is compiled once per ISA, so it must not use std
// containers, algorithms or any inline function with external linkage: an AVX-512 copy of a weak
// symbol could win at link time for every caller.
//
// All kernels agree on one arithmetic over 16 virtual lanes: every output element is one chain of
// multiply-adds in index order, every sum one fixed tree, every multiply-add is rounded once. So
// all ISAs give equal bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/weight_format.h"

namespace phi3::cpu {

inline constexpr int kLanes = 16;
inline constexpr int kTileRows = 6;    // most rows of a GEMM tile, for any ISA
inline constexpr int kTilePanels = 4;  // most panels of a GEMM tile

// out[r][16 p + lane] (+)= Σ_k x[r][k] · panel[p][k][lane]
struct GemmTile {
  const void* x[kTileRows];         // [k] each, the model dtype; float32 for gemm_int8
  const void* panels[kTilePanels];  // a packed panel each; int8 is laid out as float32
  // Memory as long as a panel that is read soon: fetched alongside when rows are too few to hide
  // its latency. May be null.
  const void* prefetch[kTilePanels];
  int num_rows;     // 1..6
  int num_panels;   // 1..4
  bool accumulate;  // continue the chains from out instead of from 0
  std::int64_t k;   // with accumulate to follow, even; for gemm_int8 a multiple of 4
  float* out;
  std::int64_t out_stride;
};

inline constexpr int kIntegerTileRows = 8;  // most rows of an integer tile, for any ISA

// out[r][16 p + lane] (+)= Σ_k x[r][k] · v[p][k][lane], but for the ISA's offset: see dequantize.
struct IntegerTile {
  const void* x[kIntegerTileRows];  // [k] int8 each
  // Numbers of a packed panel each; for gemm_u4 from the first byte of a block on.
  const void* panels[kTilePanels];
  WeightFormat format;  // for gemm_u4
  // Memory that is read soon, fetched alongside: so many bytes of each for every 4 of k. May be any
  // address.
  const std::byte* prefetch[kTilePanels];
  std::int64_t prefetch_bytes;
  int num_rows;     // 1..8
  int num_panels;   // 1..4
  bool accumulate;  // add to out
  std::int64_t k;   // a multiple of 4, for gemm_u4 of 128
  std::int32_t* out;
  std::int64_t out_stride;
};

// out[r][16 p + lane] = (sums[r][16 p + lane] - offset · x[r].sum) · (scales[p][lane] · x[r].scale)
// for the offset that an ISA's sums have.
struct IntegerSums {
  const std::int32_t* sums;
  std::int64_t sums_stride;
  const float* scales[kTilePanels];  // of the rows of each panel
  const std::byte* x;                // the first of the quantized rows
  std::int64_t x_stride;             // in bytes
  int num_panels;                    // 1..4
  std::int64_t num_rows;
  float* out;
  std::int64_t out_stride;
};

// out[r][d] continues its chain with Σ_j p[r][j] · v[j][d] over keys first <= j < last of one span.
struct ValueTile {
  const float* p[kTileRows];    // [span] weights of each row
  const void* const* v_pages;   // [16, D] each, the model dtype or int8
  const void* const* prefetch;  // for each of v_pages as much memory to fetch, as in GemmTile
  int num_rows;
  int first, last;
  int head_dim;
  float* out;
  std::int64_t out_stride;
};

struct Kernels {
  const char* name;
  int tile_rows;  // <= kTileRows; tiles of this many rows are the fastest

  void (*gemm_f32)(const GemmTile&);
  void (*gemm_bf16)(const GemmTile&);
  void (*gemm_int8)(const GemmTile&);

  int integer_tile_rows;  // <= kIntegerTileRows; of a prompt's rows, tiles of so many are the
                          // fastest
  void (*gemm_u8)(const IntegerTile&);  // panels of int8 weights
  void (*gemm_u4)(const IntegerTile&);  // of int4 weights
  // The blocks of `k` (a multiple of 32), from the first byte of one on, as the numbers of an int8
  // panel.
  void (*expand_u4)(WeightFormat format, const void* blocks, std::int64_t k, std::uint8_t* out);
  void (*dequantize)(const IntegerSums&);

  // Scores of one row of a span, keys first..last visible. Scales, then turns them in place into
  // exp(s - max); the rest of the 16-key groups touched becomes 0. Returns max and the sum of the
  // weights.
  void (*softmax_span)(float* scores, int first, int last, float scale, float* max, float* sum);
  void (*values_f32)(const ValueTile&);
  void (*values_bf16)(const ValueTile&);
  void (*values_int8)(const ValueTile&);
  // x[j] *= scales[j / 16][j % 16] over whole groups of 16 that have a key in first..last.
  void (*scale_keys)(float* x, const float* const* scales, int first, int last);
  // o = o · a + span · b
  void (*merge)(float* o, const float* span, float a, float b, std::int64_t n);
  // out = o · factor
  void (*scale_to_f32)(const float* o, float factor, void* out, std::int64_t n);
  void (*scale_to_bf16)(const float* o, float factor, void* out, std::int64_t n);

  void (*rms_norm_f32)(const float* h, const void* weight, float eps, void* out, std::int64_t n);
  void (*rms_norm_bf16)(const float* h, const void* weight, float eps, void* out, std::int64_t n);
  void (*layer_norm_f32)(
      const float* h, const void* weight, const void* bias, float eps, void* out, std::int64_t n);
  void (*layer_norm_bf16)(
      const float* h, const void* weight, const void* bias, float eps, void* out, std::int64_t n);
  // As the four above into a quantized row.
  void (*rms_norm_f32_quantized)(
      const float* h, const void* weight, float eps, void* out, std::int64_t n);
  void (*rms_norm_bf16_quantized)(
      const float* h, const void* weight, float eps, void* out, std::int64_t n);
  void (*layer_norm_f32_quantized)(
      const float* h, const void* weight, const void* bias, float eps, void* out, std::int64_t n);
  void (*layer_norm_bf16_quantized)(
      const float* h, const void* weight, const void* bias, float eps, void* out, std::int64_t n);
  void (*to_bf16)(const float* src, void* dst, std::int64_t n);
  // n values as a quantized row.
  void (*quantize_row_f32)(const void* x, void* row, std::int64_t n);
  void (*quantize_row_bf16)(const void* x, void* row, std::int64_t n);
  // 16 rows of weights [k][16], k padded with zeros, as a panel of an integer format, with each
  // row's Σ (weight - stored)² and Σ |weight|. workspace: [k / 32][16].
  void (*quantize_panel)(WeightFormat format,
                         const float* weights,
                         std::int64_t k,
                         float* workspace,
                         std::uint8_t* panel,
                         float* errors,
                         float* magnitudes);
  // out[i] = round(x[i] / scale), ties to even, for the scale max|x| / 127 that it returns: 0 for
  // all zeros, NaN (and out all 0) when a value is not finite. n a multiple of 16.
  float (*quantize)(const float* x, std::int8_t* out, std::int64_t n);
  void (*add_f32)(float* dst, const void* src, std::int64_t n);   // dst += src
  void (*add_bf16)(float* dst, const void* src, std::int64_t n);  // dst += src
  // Of pairs of 16 columns of a gate and the same of its up, values [num_pairs][2][16]:
  // out[16 pair + lane] = silu(gate) · up.
  void (*silu_mul_f32)(const float* values, std::int64_t num_pairs, void* out);
  void (*silu_mul_bf16)(const float* values, std::int64_t num_pairs, void* out);
  // As above, out = a · sigmoid(1.702 a) · (b + 1) with a = min(gate, limit), b = clamp(up, -limit,
  // limit); infinities are not limited.
  void (*gegelu_mul_f32)(const float* values, float limit, std::int64_t num_pairs, void* out);
  void (*gegelu_mul_bf16)(const float* values, float limit, std::int64_t num_pairs, void* out);

  float (*exp)(float x);
  // Largest value, or NaN when a value is NaN.
  float (*max)(const float* x, std::int64_t n);
  // weights[i] = exp((x[i] - max) / temperature) when weights is not null; returns their sum.
  double (*exp_sum)(const float* x, float max, float temperature, float* weights, std::int64_t n);
};

namespace portable {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
// Kernels of their own for the extensions that only GEMMs have a use for: the rest of such an ISA
// is that of the one it extends.
namespace avx2_vnni {
void extend(Kernels& kernels);
}
namespace avx512_vnni {
void extend(Kernels& kernels);
}
namespace avx512_bf16 {
void extend(Kernels& kernels);
}

}  // namespace phi3::cpu
