#include "cuda/gemm_plan.h"

namespace phi3::cuda {
namespace {

std::int64_t num_tiles(std::int64_t size, int tile) { return (size + tile - 1) / tile; }

// More rows share the tokens that a block reads, as long as there is a block for everyone.
int decode_tile(const GemmShape& shape, int num_sms) {
  if (shape.num_tokens <= 8) {
    return num_tiles(shape.num_rows, 16) <= 3 * num_sms ? 1 : 0;
  }
  return num_tiles(shape.num_rows, 32) < num_sms ? 2 : 3;
}

int tiled_tile(const GemmShape& shape, int num_sms) {
  constexpr GemmTile kLarge = kTiledTiles[1];
  const std::int64_t num_large =
      num_tiles(shape.num_rows, kLarge.rows) * num_tiles(shape.num_tokens, kLarge.tokens);
  return shape.num_tokens > 64 && num_large >= num_sms ? 1 : 0;
}

}  // namespace

GemmPlan plan_gemm(const GemmShape& shape, const GemmDevice& device, KernelPolicy policy) {
  if (shape.is_f32) return {.kernel = GemmKernel::kFloat32};
  const bool may_mix = policy == KernelPolicy::kFree || device.mma_agrees;
  const bool is_decode = shape.num_tokens <= kMaxDecodeTokens;
  if (device.has_wgmma && !(is_decode && may_mix)) {
    return {.kernel = GemmKernel::kWgmma,
            .wgmma_tile = sm90::choose_gemm_tile(shape.num_rows, shape.num_tokens, device.num_sms)};
  }
  if (is_decode) {
    return {.kernel = GemmKernel::kDecode, .tile = decode_tile(shape, device.num_sms)};
  }
  return {.kernel = GemmKernel::kTiled, .tile = tiled_tile(shape, device.num_sms)};
}

}  // namespace phi3::cuda
