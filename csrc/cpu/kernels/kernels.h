// The per-ISA inner kernels as a table of function pointers.
//
// This header and everything in this folder is compiled once per ISA, so it must not use std
// containers, algorithms or any inline function with external linkage: an AVX-512 copy of a weak
// symbol could win at link time for every caller.
//
// All kernels agree on one arithmetic over 16 virtual lanes: every output element is one chain of
// multiply-adds in index order, every sum one fixed tree. avx2 and avx512 give equal bits; portable
// multiplies and adds in two roundings.
#pragma once

#include <cstdint>

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
  void (*to_bf16)(const float* src, void* dst, std::int64_t n);
  // out[i] = round(x[i] / scale), ties to even, for the scale max|x| / 127 that it returns: 0 for
  // all zeros, NaN (and out all 0) when a value is not finite. n a multiple of 16.
  float (*quantize)(const float* x, std::int8_t* out, std::int64_t n);
  void (*add_f32)(float* dst, const void* src, std::int64_t n);    // dst += src
  void (*add_bf16)(float* dst, const void* src, std::int64_t n);   // dst += src
  void (*silu_mul)(float* gate, const float* up, std::int64_t n);  // gate = silu(gate) · up
  // gate = a · sigmoid(1.702 a) · (b + 1) with a = min(gate, limit), b = clamp(up, -limit, limit);
  // infinities are not limited.
  void (*gegelu_mul)(float* gate, const float* up, float limit, std::int64_t n);

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

}  // namespace phi3::cpu
