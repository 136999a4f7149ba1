// A ring of key and value tiles in shared memory, which a producer warpgroup fills from the pages
// and consumer warpgroups multiply with.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/dtype.h"
#include "cuda/attention_view.cuh"
#include "cuda/ptx.h"
#include "cuda/sm90/swizzled_tile.h"
#include "cuda/sm90/warpgroup.h"
#include "cuda/sm90/wgmma.h"

namespace phi3::cuda::sm90 {

// A tile of fp8 as it was fetched. A thread reads only what it fetched itself.
template <int kHeadDim>
struct Float8Tile {
  alignas(16) unsigned char keys[kTileKeys * kHeadDim];
  alignas(16) unsigned char values[kTileKeys * kHeadDim];
};
struct NoTile {};

// `Kv` is what the pages are of; in the ring it is bfloat16. Tiles are numbered from 0 in the order
// in which they come.
template <typename Kv, int kHeadDim>
struct KvRing {
  using Tile = SwizzledTile<kTileKeys, kHeadDim>;
  static constexpr bool kIsWide = std::is_same_v<Kv, BFloat16>;
  static constexpr int kNumStages = kIsWide ? 4 : 3;
  // How many tiles the producer fetches ahead of the one that it hands over. A consumer lets go of
  // a tile only when it has the next, so two of the stages cannot be on their way.
  static constexpr int kTilesAhead = kNumStages - 2;

  struct alignas(1024) Stage {
    unsigned char keys[Tile::kBytes];
    unsigned char values[Tile::kBytes];
  };

  Stage stages[kNumStages];
  std::conditional_t<kIsWide, NoTile, Float8Tile<kHeadDim>> narrow[kTilesAhead + 1];
  Mbarrier full[kNumStages];
  Mbarrier empty[kNumStages];
  int special[kNumStages];  // the last tile there that lacks special values, or -1

  PHI3_DEVICE Stage& stage(int tile) { return stages[tile % kNumStages]; }
  PHI3_DEVICE auto& narrow_tile(int tile) { return narrow[tile % (kTilesAhead + 1)]; }

  // By one thread, before all others begin.
  PHI3_DEVICE void init(int num_consumer_warps) {
    for (int stage = 0; stage < kNumStages; ++stage) {
      mbarrier_init(full[stage], kWarpgroupSize);
      mbarrier_init(empty[stage], static_cast<std::uint32_t>(num_consumer_warps));
      special[stage] = -1;
    }
  }

  // The producer's side, by all of its threads.
  PHI3_DEVICE void wait_for_room(int tile) {
    if (tile >= kNumStages) mbarrier_wait(empty[tile % kNumStages], parity(tile - kNumStages));
  }
  PHI3_DEVICE void hand_over(int tile, bool is_special) {
    if (is_special) special[tile % kNumStages] = tile;
    fence_for_wgmma();
    mbarrier_arrive(full[tile % kNumStages]);
  }

  // A consumer's, by whole warps. Each warp waits for every tile and lets go of it.
  PHI3_DEVICE void wait_for(int tile) { mbarrier_wait(full[tile % kNumStages], parity(tile)); }
  PHI3_DEVICE bool is_special(int tile) const { return special[tile % kNumStages] == tile; }
  PHI3_DEVICE void let_go(int tile) {
    __syncwarp();
    if (lane_index() == 0) mbarrier_arrive(empty[tile % kNumStages]);
  }

 private:
  PHI3_DEVICE static std::uint32_t parity(int tile) {
    return static_cast<std::uint32_t>(tile / kNumStages) & 1U;
  }
};

}  // namespace phi3::cuda::sm90
