// out[t][n] = Σ_k x[t][k] · W[n][k], over one of the epilogues: by the kernel that the plan says.
// Every op's .cu has the kernels of its own epilogue.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>

#include "core/check.h"
#include "core/params.h"
#include "cuda/decode_gemm.cuh"
#include "cuda/device.h"
#include "cuda/epilogue.cuh"
#include "cuda/gemm_f32.cuh"
#include "cuda/gemm_plan.h"
#include "cuda/gemm_tiles.cuh"
#include "cuda/launch.h"
#include "cuda/sm90/gemm.h"
#include "cuda/sm90/mma_probe.h"
#include "cuda/tiled_gemm.cuh"

namespace phi3::cuda {

struct GemmProblem {
  const char* op;  // name for messages
  DType dtype;     // A
  Rows x;          // [T, k]
  PackedWeight weight;
  std::int64_t num_tokens;
};

inline std::int64_t num_rows(const PackedWeight& weight) { return weight.num_panels * kPanelRows; }

// The scales behind the numbers of an fp8 weight; null for others.
inline const float* row_scales(const PackedWeight& weight) {
  if (weight.format != WeightFormat::kFloat8) return nullptr;
  const std::int64_t num_bytes = num_rows(weight) * cuda_columns(weight.in_features);
  return reinterpret_cast<const float*>(static_cast<const std::byte*>(weight.data) + num_bytes);
}

inline bool is_aligned(const Rows& x) {
  return reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.stride % 16 == 0;
}

inline std::uint32_t num_blocks(std::int64_t size, int tile) {
  return static_cast<std::uint32_t>((size + tile - 1) / tile);
}

template <typename W, int kTileIdx, typename Epilogue>
void launch_decode(const GemmParams<Epilogue>& params, Stream stream) {
  constexpr GemmTile kTile = kDecodeTiles[kTileIdx];
  const GemmOperands& in = params.operands;
  launch<decode_gemm<W, kTileIdx, Epilogue>>(
      {.grid = dim3(num_blocks(in.num_rows, kTile.rows), num_blocks(in.num_tokens, kTile.tokens)),
       .threads = kDecodeThreads,
       .shared_bytes = kGemmSpans * ring_bytes(kTile, sizeof(W), kGemmSpans)},
      stream,
      params);
}

template <typename W, int kTileIdx, typename Epilogue>
void launch_tiled(const GemmParams<Epilogue>& params, Stream stream) {
  constexpr GemmTile kTile = kTiledTiles[kTileIdx];
  const GemmOperands& in = params.operands;
  launch<tiled_gemm<W, kTileIdx, Epilogue>>(
      {.grid = dim3(num_blocks(in.num_rows, kTile.rows) * num_blocks(in.num_tokens, kTile.tokens)),
       .threads = TileWarps<kTile>::kThreads,
       .shared_bytes = ring_bytes(kTile, sizeof(W), 1)},
      stream,
      params);
}

template <typename W, typename Epilogue>
void launch_f32(const GemmParams<Epilogue>& params, Stream stream) {
  const GemmOperands& in = params.operands;
  launch<gemm_f32<W, Epilogue>>({.grid = dim3(num_blocks(in.num_rows, kFloat32Tile.rows),
                                              num_blocks(in.num_tokens, kFloat32Tile.tokens)),
                                 .threads = kFloat32Threads,
                                 .shared_bytes = kFloat32SharedBytes},
                                stream,
                                params);
}

// The kernels on mma.sync.
template <typename W, typename Epilogue>
void launch_planned(const GemmPlan& plan, const GemmParams<Epilogue>& params, Stream stream) {
  static_assert(std::size(kDecodeTiles) == 4 && std::size(kTiledTiles) == 2);
  if (plan.kernel == GemmKernel::kTiled) {
    return plan.tile == 0 ? launch_tiled<W, 0>(params, stream) : launch_tiled<W, 1>(params, stream);
  }
  switch (plan.tile) {
    case 0:
      return launch_decode<W, 0>(params, stream);
    case 1:
      return launch_decode<W, 1>(params, stream);
    case 2:
      return launch_decode<W, 2>(params, stream);
    default:
      return launch_decode<W, 3>(params, stream);
  }
}

template <typename Epilogue>
void gemm(const GemmProblem& problem, const typename Epilogue::Params& epilogue, Stream stream) {
  const PackedWeight& weight = problem.weight;
  const bool is_f32 = problem.dtype == DType::kFloat32;
  const bool is_float8 = weight.format == WeightFormat::kFloat8;
  PHI3_CHECK(is_float8 || is_float(weight.format),
             problem.op,
             ": ",
             format_name(weight.format),
             " weights are not supported on cuda");
  PHI3_CHECK(reinterpret_cast<std::uintptr_t>(weight.data) % 16 == 0,
             problem.op,
             ": a packed weight does not begin at a multiple of 16 bytes");
  const sm90::WgmmaProblem on_sm90{
      .weight = weight,
      .x = problem.x.data,
      .x_stride = problem.x.stride / dtype_size(problem.dtype),
      .num_tokens = problem.num_tokens,
  };
  const DeviceProperties& device = current_device();
  const bool has_wgmma = !is_f32 && device.compute_capability == 90 && sm90::can_run(on_sm90);
  const GemmPlan plan =
      plan_gemm({.num_tokens = problem.num_tokens, .num_rows = num_rows(weight), .is_f32 = is_f32},
                {.num_sms = device.num_sms,
                 .has_wgmma = has_wgmma,
                 .mma_agrees = has_wgmma && sm90::mma_agrees()},
                kernel_policy());
  if (plan.kernel == GemmKernel::kWgmma) {
    sm90::gemm<Epilogue>(on_sm90, plan.wgmma_tile, epilogue, stream);
    return;
  }
  const GemmParams<Epilogue> params{
      .operands = {.weight = static_cast<const unsigned char*>(weight.data),
                   .x = static_cast<const unsigned char*>(problem.x.data),
                   .x_stride = problem.x.stride,
                   .num_rows = static_cast<std::int32_t>(num_rows(weight)),
                   .num_tokens = static_cast<std::int32_t>(problem.num_tokens),
                   .k = static_cast<std::int32_t>(weight.in_features),
                   .padded_k = static_cast<std::int32_t>(cuda_columns(weight.in_features)),
                   .span = static_cast<std::int32_t>(gemm_span(weight.in_features)),
                   .x_is_aligned = is_aligned(problem.x) && weight.in_features % 8 == 0},
      .epilogue = epilogue};
  if (is_f32) {
    is_float8 ? launch_f32<Float8>(params, stream) : launch_f32<float>(params, stream);
  } else if (is_float8) {
    launch_planned<Float8>(plan, params, stream);
  } else {
    launch_planned<BFloat16>(plan, params, stream);
  }
}

}  // namespace phi3::cuda
