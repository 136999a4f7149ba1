// The GEMM kernels of sm_90a, of parts of CUTLASS 3: TMA loads by a warp of their own, WGMMA by
// the others, our spans of k and our epilogues. Weights are the A operand, whose rows WGMMA takes
// by 64; tokens the B operand, by 8.
#pragma once

#include <cutlass/cutlass.h>
#include <cutlass/device_kernel.h>

#include <cute/tensor.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include "cuda/device.h"
#include "cuda/epilogue.cuh"
#include "cuda/launch.h"
#include "cuda/sm90/gemm.h"
#include "cuda/sm90/gemm_epilogue.cuh"
#include "cuda/sm90/gemm_instance.h"
#include "cuda/sm90/gemm_mainloop.cuh"

namespace phi3::cuda::sm90 {

// k of a stage: a span is a multiple of it, and 128 bytes of bfloat16 are a row of a swizzle.
inline constexpr int kTileK = 64;

// What a block may have of a multiprocessor's 228 KB where there are one or two of them: each loses
// 1 KB, and has barriers besides its stages.
inline constexpr int kSharedBytes[] = {227 * 1024, 113 * 1024};

using Problem = cute::Shape<int, int, int, int>;  // rows, tokens, k, 1

template <WgmmaTile kTile>
struct TileTraits {
  static constexpr int kRows = static_cast<int>(tile_rows(kTile));
  static constexpr int kTokens = static_cast<int>(tile_tokens(kTile));
  static constexpr bool kIsLarge = kTile == WgmmaTile::k128x128;
  using Shape = cute::Shape<cute::Int<kRows>, cute::Int<kTokens>, cute::Int<kTileK>>;
  // Two large tiles of the same tokens load them together.
  using Cluster = cute::Shape<cute::Int<kIsLarge ? 2 : 1>, cute::_1, cute::_1>;
  using Schedule = cute::conditional_t<kIsLarge,
                                       cutlass::gemm::KernelTmaWarpSpecializedCooperative,
                                       cutlass::gemm::KernelTmaWarpSpecialized>;
};

// fp8 is widened in registers, on the way from shared memory to WGMMA.
template <WeightFormat kFormat>
using WeightElement = cute::
    conditional_t<kFormat == WeightFormat::kFloat8, cutlass::float_e4m3_t, cutlass::bfloat16_t>;

template <class Weight, WgmmaTile kTile, class EpilogueStorage>
struct Mainloop {
  using Traits = TileTraits<kTile>;
  // Only the large tile needs the memory of its epilogue beside its stages, which then already
  // receive the next tile. Barriers and the like take less than 1 KB.
  static constexpr int kNotForStages = (Traits::kIsLarge ? static_cast<int>(sizeof(EpilogueStorage))
                                                         : kSharedBytes[0] - kSharedBytes[1]) +
                                       1024;

  using Operand = cute::conditional_t<sizeof(Weight) == 1, cute::tuple<Weight>, Weight>;
  using Collective = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90,
      cutlass::arch::OpClassTensorOp,
      Operand,
      cutlass::layout::RowMajor,
      16 / sizeof(Weight),
      cutlass::bfloat16_t,
      cutlass::layout::ColumnMajor,
      8,
      float,
      typename Traits::Shape,
      typename Traits::Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<kNotForStages>,
      typename Traits::Schedule>::CollectiveOp;
  using Type = SpanMainloop<Collective>;
};

template <class Weight, WgmmaTile kTile, class Epilogue>
struct GemmKernel
    : cutlass::gemm::kernel::GemmUniversal<
          Problem,
          typename Mainloop<
              Weight,
              kTile,
              typename StagedEpilogue<Epilogue,
                                      TileTraits<kTile>::kRows,
                                      TileTraits<kTile>::kTokens>::TensorStorage>::Type,
          StagedEpilogue<Epilogue, TileTraits<kTile>::kRows, TileTraits<kTile>::kTokens>,
          cutlass::gemm::PersistentScheduler> {
  static constexpr bool kIsLarge = TileTraits<kTile>::kIsLarge;
  static constexpr std::uint32_t MinBlocksPerMultiprocessor = kIsLarge ? 1 : 2;
  static_assert(GemmKernel::SharedStorageSize <= kSharedBytes[kIsLarge ? 0 : 1]);
};

template <class Kernel, class Weight>
typename Kernel::Arguments kernel_arguments(const WgmmaProblem& problem,
                                            const typename Kernel::EpilogueArguments& epilogue,
                                            const DeviceProperties& device) {
  const std::int64_t k = problem.weight.in_features;
  typename Kernel::Arguments arguments{};
  arguments.mode = cutlass::gemm::GemmUniversalMode::kGemm;
  arguments.problem_shape = {static_cast<int>(problem.weight.num_panels * kPanelRows),
                             static_cast<int>(problem.num_tokens),
                             static_cast<int>(k),
                             1};
  arguments.mainloop.ptr_A = static_cast<const Weight*>(problem.weight.data);
  arguments.mainloop.dA = {cuda_columns(k), cute::_1{}, 0};
  arguments.mainloop.ptr_B = static_cast<const cutlass::bfloat16_t*>(problem.x);
  arguments.mainloop.dB = {problem.x_stride, cute::_1{}, 0};
  arguments.epilogue = epilogue;
  arguments.hw_info.device_id = device.index;
  arguments.hw_info.sm_count = device.num_sms;
  return arguments;
}

template <class Kernel>
void launch_clusters(const typename Kernel::Params& params, Stream stream) {
  using Cluster = typename Kernel::ClusterShape;
  const auto kernel = cutlass::device_kernel<Kernel>;
  const auto set = [kernel](cudaFuncAttribute attribute, int value) {
    check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value),
               "shared memory");
  };
  set(cudaFuncAttributeMaxDynamicSharedMemorySize, Kernel::SharedStorageSize);
  set(cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {cute::size<0>(Cluster{}), cute::size<1>(Cluster{}), 1};
  cudaLaunchConfig_t config{};
  config.gridDim = Kernel::get_grid_shape(params);
  config.blockDim = Kernel::get_block_shape();
  config.dynamicSmemBytes = Kernel::SharedStorageSize;
  config.stream = handle_of(stream);
  config.attrs = &cluster;
  config.numAttrs = 1;
  check_cuda(cudaLaunchKernelEx(&config, kernel, params), "launch");
}

template <WeightFormat kFormat, WgmmaTile kTile, class Epilogue>
void run_gemm(const WgmmaProblem& problem,
              const typename Epilogue::Params& epilogue,
              Stream stream) {
  using Weight = WeightElement<kFormat>;
  using Kernel = GemmKernel<Weight, kTile, Epilogue>;
  const auto arguments = kernel_arguments<Kernel, Weight>(problem, epilogue, current_device());
  PHI3_CHECK(Kernel::can_implement(arguments),
             "cuda: a GEMM of k ",
             problem.weight.in_features,
             " and row stride ",
             problem.x_stride,
             " is not for TMA");
  launch_clusters<Kernel>(Kernel::to_underlying_arguments(arguments, nullptr), stream);
}

}  // namespace phi3::cuda::sm90
