// What of the GEMM kernels of sm_90a can be held without a GPU: their memory, what they take, and
// where the sums of a thread belong.
#include <cstdint>
#include <vector>

#include "check.h"
#include "cuda/sm90/gemm_kernel.cuh"

namespace phi3::cuda::sm90 {
namespace {

const DeviceProperties kHopper{.index = 0, .compute_capability = 90, .num_sms = 132};

template <WeightFormat kFormat, WgmmaTile kTile>
struct Instance {
  static constexpr WeightFormat kWeightFormat = kFormat;
  static constexpr int kRows = TileTraits<kTile>::kRows;
  static constexpr int kTokens = TileTraits<kTile>::kTokens;
  using Weight = WeightElement<kFormat>;
  using Kernel = GemmKernel<Weight, kTile, StoreEpilogue>;

  static bool takes(std::int64_t num_rows, std::int64_t k, std::int64_t num_tokens) {
    WgmmaProblem problem{};
    problem.weight = {.data = nullptr,
                      .num_panels = (num_rows + kPanelRows - 1) / kPanelRows,
                      .in_features = k,
                      .format = kFormat};
    problem.x_stride = round_up(k, 8);
    problem.num_tokens = num_tokens;
    return Kernel::can_implement(kernel_arguments<Kernel, Weight>(problem, {}, kHopper));
  }
};

template <typename Check>
void for_each_instance(Check check) {
  check(Instance<WeightFormat::kBFloat16, WgmmaTile::k64x16>{});
  check(Instance<WeightFormat::kBFloat16, WgmmaTile::k64x32>{});
  check(Instance<WeightFormat::kBFloat16, WgmmaTile::k64x64>{});
  check(Instance<WeightFormat::kBFloat16, WgmmaTile::k128x128>{});
  check(Instance<WeightFormat::kFloat8, WgmmaTile::k64x16>{});
  check(Instance<WeightFormat::kFloat8, WgmmaTile::k64x32>{});
  check(Instance<WeightFormat::kFloat8, WgmmaTile::k64x64>{});
  check(Instance<WeightFormat::kFloat8, WgmmaTile::k128x128>{});
}

TEST(stages_hide_the_latency_of_memory) {
  for_each_instance([](auto instance) {
    using Kernel = typename decltype(instance)::Kernel;
    EXPECT(Kernel::DispatchPolicy::Stages >= 4);
    // By Little's law 64 KB on their way from each of 132 multiprocessors are 8 MB: more than 1 µs
    // of an H200's bandwidth.
    const int stage_bytes = static_cast<int>(Kernel::CollectiveMainloop::TmaTransactionBytes);
    EXPECT(static_cast<int>(Kernel::MinBlocksPerMultiprocessor) * Kernel::DispatchPolicy::Stages *
               stage_bytes >=
           64 * 1024);
  });
}

TEST(operands_begin_where_a_swizzle_does) {
  for_each_instance([](auto instance) {
    using Storage = typename decltype(instance)::Kernel::SharedStorage;
    alignas(Storage) static unsigned char memory[sizeof(Storage)];
    const auto& storage = *reinterpret_cast<const Storage*>(memory);
    const auto offset = [&](const auto& operand) {
      return reinterpret_cast<const unsigned char*>(&operand) - memory;
    };
    EXPECT(offset(storage.tensors.mainloop.smem_A) % 1024 == 0);
    EXPECT(offset(storage.tensors.mainloop.smem_B) % 1024 == 0);
  });
}

TEST(weights_of_the_models_are_taken) {
  struct Shape {
    std::int64_t num_rows, k;
  };
  for_each_instance([](auto instance) {
    for (const Shape shape : {Shape{9216, 3072},  // Phi-3-mini
                              Shape{3072, 3072},
                              Shape{16384, 3072},
                              Shape{3072, 8192},
                              Shape{32064, 3072},
                              Shape{5120, 3072},  // Phi-4-mini
                              Shape{200064, 3072},
                              Shape{7680, 5120},  // Phi-3-medium
                              Shape{35840, 5120},
                              Shape{5120, 17920},
                              Shape{28672, 4096},  // Phi-3-small
                              Shape{4096, 14336}}) {
      for (const std::int64_t num_tokens : {1, 17, 64, 100, 8192}) {
        EXPECT(instance.takes(shape.num_rows, shape.k, num_tokens));
      }
    }
  });
}

TEST(what_TMA_cannot_read_is_refused) {
  for_each_instance([](auto instance) {
    EXPECT(!instance.takes(64, 100, 4));
    EXPECT(instance.takes(64, 8, 4) == (instance.kWeightFormat == WeightFormat::kBFloat16));
    EXPECT(instance.takes(8, 16, 4));
  });
}

TEST(spans_are_those_of_all_gemms) {
  for (std::int64_t k = 1; k < 20000; ++k) {
    const std::int64_t num_tiles = (k + kTileK - 1) / kTileK;
    EXPECT(span_tiles(static_cast<int>(num_tiles)) * kTileK == gemm_span(k));
  }
}

TEST(every_sum_is_staged_at_a_place_of_its_own_without_bank_conflicts) {
  for_each_instance([](auto instance) {
    using Tested = decltype(instance);
    using Kernel = typename Tested::Kernel;
    using Op = StagedEpilogueOp<StoreEpilogue, Tested::kRows, Tested::kTokens>;
    constexpr int kThreads = cute::size(typename Kernel::TiledMma{});
    constexpr int kSums = Tested::kRows * Tested::kTokens / kThreads;
    std::vector<int> writes(Tested::kRows * Tested::kTokens);
    for (int sum = 0; sum < kSums; ++sum) {
      std::uint32_t banks = 0;
      for (int thread = 0; thread < kThreads; ++thread) {
        const auto coords =
            Op::coords_of(typename Kernel::TiledMma{}, typename Kernel::TileShape{}, thread);
        EXPECT(cute::size(coords) == kSums);
        const int row = cute::get<0>(coords(sum));
        const int token = cute::get<1>(coords(sum));
        EXPECT(row / Op::kGroupRows == thread / Op::kGroupThreads);
        ++writes[static_cast<std::size_t>(token * Tested::kRows + row)];
        if (thread % kWarpSize == 0) banks = 0;
        banks |= 1U << (token * Op::kTokenPitch + row % Op::kGroupRows) % 32;
        if (thread % kWarpSize == kWarpSize - 1) EXPECT(banks == 0xffffffffU);
      }
    }
    for (const int count : writes) EXPECT(count == 1);
  });
}

TEST(tiles_hold_the_tokens_and_use_the_device) {
  EXPECT(choose_gemm_tile(3072, 1, 132) == WgmmaTile::k64x16);
  EXPECT(choose_gemm_tile(3072, 17, 132) == WgmmaTile::k64x32);
  EXPECT(choose_gemm_tile(3072, 64, 132) == WgmmaTile::k64x64);
  EXPECT(choose_gemm_tile(3072, 128, 132) == WgmmaTile::k64x64);
  EXPECT(choose_gemm_tile(16384, 128, 132) == WgmmaTile::k128x128);
  EXPECT(choose_gemm_tile(3072, 2048, 132) == WgmmaTile::k128x128);
}

}  // namespace
}  // namespace phi3::cuda::sm90
