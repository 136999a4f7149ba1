// Hands the sums of a tile to an epilogue of epilogue.cuh, in the shape of a collective of CUTLASS.
#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/cutlass.h>

#include <cute/tensor.hpp>
#include <cutlass/epilogue/collective/detail.hpp>

#include "cuda/ptx.h"

namespace phi3::cuda::sm90 {

// A thread has sums of rows and tokens all over the tile of its warp group, 64 rows. They pass
// through shared memory, so that a warp then has the 32 pairs of rows of one token.
template <class Epilogue, int kTileRows, int kTileTokens>
class StagedEpilogueOp {
 public:
  static constexpr int kGroupRows = 64;
  static constexpr int kGroupThreads = 128;
  static constexpr int kWarps = kGroupThreads / kWarpSize;
  // Of a warp: nothing else of the block runs that could hide how long it waits for memory.
  static constexpr int kTokensAtOnce = cute::min(8, kTileTokens / kWarps);
  // Of 32 lanes that write, the tokens 2c of c = 0..3 shall be 8 banks apart, for 8 rows each.
  static constexpr int kTokenPitch = kGroupRows + 4;

  // In the kernel of the large tile the operands come behind, whose swizzles repeat every 1024
  // bytes.
  struct SharedStorage {
    alignas(1024) float sums[kTileRows / kGroupRows][kTileTokens][kTokenPitch];
  };

  // What the kernel layer asks of an epilogue. C and D are not used: the parameters have all.
  using DispatchPolicy = void;
  using ElementC = float;
  using ElementD = float;
  using StrideC = cute::Stride<cute::Int<1>, std::int64_t, std::int64_t>;
  using StrideD = StrideC;
  using Arguments = typename Epilogue::Params;
  using Params = typename Epilogue::Params;

  template <class Shape>
  static Params to_underlying_arguments(const Shape&, const Arguments& arguments, void*) {
    return arguments;
  }
  template <class Shape>
  static std::size_t get_workspace_size(const Shape&, const Arguments&) {
    return 0;
  }
  template <class Shape>
  static bool can_implement(const Shape&, const Arguments&) {
    return true;
  }

  // Row and token within the tile of each sum of a thread.
  template <class TiledMma, class TileShape>
  CUTLASS_HOST_DEVICE static auto coords_of(const TiledMma& tiled_mma,
                                            const TileShape& tile_shape,
                                            int thread_idx) {
    return tiled_mma.get_slice(thread_idx)
        .partition_C(cute::make_identity_tensor(cute::take<0, 2>(tile_shape)));
  }

  CUTLASS_DEVICE explicit StagedEpilogueOp(const Params& params) : params_(params) {}

  template <class Shape,
            class TileShape,
            class TileCoord,
            class Engine,
            class Layout,
            class TiledMma,
            class Residue>
  CUTLASS_DEVICE void operator()(const Shape& problem,
                                 const TileShape& tile_shape,
                                 const TileCoord& tile,
                                 const cute::Tensor<Engine, Layout>& sums,
                                 const TiledMma& tiled_mma,
                                 const Residue&,
                                 int thread_idx,
                                 char* shared) const {
    const int group = thread_idx / kGroupThreads;
    const int lane = thread_idx % kWarpSize;
    const int warp = thread_idx % kGroupThreads / kWarpSize;
    auto& staged = reinterpret_cast<SharedStorage*>(shared)->sums[group];

    // Other warps may still multiply from this memory, or read the tile before.
    barrier(group);
    const auto coords = tiled_mma.get_slice(thread_idx)
                            .partition_C(cute::make_identity_tensor(cute::take<0, 2>(tile_shape)));
    static_assert(decltype(cute::size(coords) == cute::size(sums))::value);
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < cute::size(sums); ++i) {
      staged[cute::get<1>(coords(i))][cute::get<0>(coords(i)) % kGroupRows] = sums(i);
    }
    barrier(group);

    const std::int64_t row = cute::get<0>(tile) * kTileRows + group * kGroupRows + 2 * lane;
    if (row >= cute::get<0>(problem)) return;
    const std::int64_t first_token = static_cast<std::int64_t>(cute::get<1>(tile)) * kTileTokens;
    const int num_tokens =
        cute::min(kTileTokens, static_cast<int>(cute::get<1>(problem) - first_token));
    CUTLASS_PRAGMA_NO_UNROLL
    for (int first = warp; first < num_tokens; first += kTokensAtOnce * kWarps) {
      typename Epilogue::Read read[kTokensAtOnce];
      CUTLASS_PRAGMA_UNROLL
      for (int i = 0; i < kTokensAtOnce; ++i) {
        const int token = first + i * kWarps;
        if (token < num_tokens) read[i] = Epilogue::read(params_, first_token + token, row);
      }
      CUTLASS_PRAGMA_UNROLL
      for (int i = 0; i < kTokensAtOnce; ++i) {
        const int token = first + i * kWarps;
        if (token >= num_tokens) break;
        const float2 pair = *reinterpret_cast<const float2*>(&staged[token][2 * lane]);
        Epilogue::store(params_, first_token + token, row, pair.x, pair.y, read[i]);
      }
    }
  }

 private:
  // Of the threads of one warp group.
  CUTLASS_DEVICE static void barrier(int group) {
    cutlass::arch::NamedBarrier::sync(kGroupThreads, static_cast<std::uint32_t>(group));
  }

  const Params& params_;
};

template <class Epilogue, int kTileRows, int kTileTokens>
using StagedEpilogue = cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<
    StagedEpilogueOp<Epilogue, kTileRows, kTileTokens>>;

}  // namespace phi3::cuda::sm90
