#include <cstdint>
#include <iterator>
#include <set>
#include <utility>
#include <vector>

#include "check.h"
#include "cuda/gemm_plan.h"

using namespace phi3;
using namespace phi3::cuda;

namespace {

struct Weight {
  std::int64_t num_rows, k;
};

// Of Phi-3-mini, Phi-3-medium and Phi-4-mini: qkv, o, gate_up, down, lm_head.
constexpr Weight kWeights[] = {{9216, 3072},
                               {3072, 3072},
                               {16384, 3072},
                               {3072, 8192},
                               {32064, 3072},
                               {7680, 5120},
                               {5120, 5120},
                               {35840, 5120},
                               {5120, 17920},
                               {32064, 5120},
                               {5120, 3072},
                               {200064, 3072}};
constexpr std::int64_t kTokens[] = {1, 2, 7, 8, 9, 16, 17, 32, 63, 64, 65, 128, 200, 512, 4096};
constexpr GemmDevice kSm80{.num_sms = 108, .has_wgmma = false, .mma_agrees = false};
constexpr GemmDevice kSm90{.num_sms = 132, .has_wgmma = true, .mma_agrees = true};
constexpr GemmDevice kSm90Apart{.num_sms = 132, .has_wgmma = true, .mma_agrees = false};

GemmPlan plan(std::int64_t num_tokens,
              std::int64_t num_rows,
              const GemmDevice& device,
              KernelPolicy policy = KernelPolicy::kDeterministic) {
  return plan_gemm(
      {.num_tokens = num_tokens, .num_rows = num_rows, .is_f32 = false}, device, policy);
}

}  // namespace

TEST(spans_cover_k_and_hold_whole_stages) {
  for (std::int64_t k = 1; k <= 20000; k += k < 300 ? 1 : 61) {
    const std::int64_t span = gemm_span(k);
    EXPECT(kGemmSpans * span >= cuda_columns(k));
    EXPECT_EQ(span % 64, 0);
    EXPECT(kGemmSpans * (span - 64) < k);
  }
  EXPECT_EQ(gemm_span(3072), 768);
  EXPECT_EQ(gemm_span(17920), 4480);
  EXPECT_EQ(gemm_span(64), 64);
}

TEST(blocks_fit_every_gpu) {
  for (const int weight_bytes : {1, 2}) {
    for (const GemmTile& tile : kDecodeTiles) {
      EXPECT(num_stages(tile, weight_bytes, kGemmSpans) >= 3);
      EXPECT(kGemmSpans * ring_bytes(tile, weight_bytes, kGemmSpans) <= kMaxGemmSharedBytes);
    }
    for (const GemmTile& tile : kTiledTiles) {
      EXPECT(num_stages(tile, weight_bytes, 1) >= 2);
      EXPECT(ring_bytes(tile, weight_bytes, 1) <= kMaxGemmSharedBytes);
    }
  }
}

TEST(every_tile_is_one_blocks) {
  for (const auto& [num_row_tiles, num_token_tiles] : std::vector<std::pair<unsigned, unsigned>>{
           {1, 1}, {1, 8}, {5, 3}, {24, 9}, {72, 32}, {251, 17}, {2, 65}}) {
    std::set<std::pair<unsigned, unsigned>> seen;
    for (unsigned block = 0; block < num_row_tiles * num_token_tiles; ++block) {
      const TileIndex tile = tile_of(block, num_row_tiles, num_token_tiles);
      EXPECT(tile.row < num_row_tiles && tile.token < num_token_tiles);
      seen.emplace(tile.row, tile.token);
    }
    EXPECT_EQ(seen.size(), std::size_t{num_row_tiles} * num_token_tiles);
  }
}

TEST(a_plan_names_a_tile_that_exists) {
  for (const Weight& weight : kWeights) {
    for (const std::int64_t num_tokens : kTokens) {
      for (const GemmDevice& device : {kSm80, kSm90, kSm90Apart}) {
        const GemmPlan planned = plan(num_tokens, weight.num_rows, device);
        if (planned.kernel == GemmKernel::kDecode) {
          EXPECT(planned.tile < static_cast<int>(std::size(kDecodeTiles)));
          EXPECT(num_tokens <= kDecodeTiles[planned.tile].tokens);
        } else if (planned.kernel == GemmKernel::kTiled) {
          EXPECT(planned.tile < static_cast<int>(std::size(kTiledTiles)));
        } else {
          EXPECT(planned.kernel == GemmKernel::kWgmma && device.has_wgmma);
        }
      }
    }
  }
}

TEST(few_tokens_take_the_decode_kernel_where_it_may_be_mixed) {
  EXPECT(plan(16, 3072, kSm80).kernel == GemmKernel::kDecode);
  EXPECT(plan(17, 3072, kSm80).kernel == GemmKernel::kTiled);
  EXPECT(plan(16, 3072, kSm90).kernel == GemmKernel::kDecode);
  EXPECT(plan(17, 3072, kSm90).kernel == GemmKernel::kWgmma);
  EXPECT(plan(1, 3072, kSm90Apart).kernel == GemmKernel::kWgmma);
  EXPECT(plan(1, 3072, kSm90Apart, KernelPolicy::kFree).kernel == GemmKernel::kDecode);
}

TEST(tiles_grow_once_there_is_a_block_for_everyone) {
  EXPECT_EQ(plan(1, 32064, kSm80).tile, 0);
  EXPECT_EQ(plan(1, 3072, kSm80).tile, 1);
  EXPECT_EQ(plan(16, 3072, kSm80).tile, 2);
  EXPECT_EQ(plan(16, 9216, kSm80).tile, 3);
  EXPECT_EQ(plan(64, 32064, kSm80).tile, 0);
  EXPECT_EQ(plan(512, 3072, kSm80).tile, 0);
  EXPECT_EQ(plan(4096, 3072, kSm80).tile, 1);
}

TEST(float32_models_have_one_kernel) {
  for (const std::int64_t num_tokens : kTokens) {
    const GemmPlan planned = plan_gemm(
        {.num_tokens = num_tokens, .num_rows = 3072, .is_f32 = true}, kSm90, KernelPolicy::kFree);
    EXPECT(planned.kernel == GemmKernel::kFloat32);
  }
}

TEST(the_policy_is_the_process_s) {
  EXPECT(kernel_policy() == KernelPolicy::kDeterministic);
  set_kernel_policy("free");
  EXPECT(kernel_policy() == KernelPolicy::kFree);
  set_kernel_policy("deterministic");
  EXPECT_ERROR(set_kernel_policy("fast"),
               "kernel policy is 'fast', expected deterministic or free");
}
