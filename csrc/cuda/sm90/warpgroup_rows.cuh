// The 64 query rows of a consumer warpgroup, 16 to a warp.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cuda/attention_tile.cuh"
#include "cuda/attention_view.cuh"
#include "cuda/block_pattern.cuh"
#include "cuda/ptx.h"
#include "cuda/sm90/wgmma.h"

namespace phi3::cuda::sm90 {

inline constexpr int kWarpgroupQueries = 64;

template <int kHeadDim>
class WarpgroupRows {
 public:
  // Queries from `first` on of those before `end`; rows behind them see what the last one sees and
  // come to nothing. `view_of(query)` and `query_of(query)` (A [D]) are asked for queries alone.
  template <typename ViewOf, typename QueryOf>
  PHI3_DEVICE WarpgroupRows(
      const BlockPattern& pattern, int first, int end, ViewOf view_of, QueryOf query_of)
      : pattern_(pattern) {
    if (first >= end) return;
    const int last = min(first + kWarpgroupQueries, end) - 1;
    begin_ = view_of(first).begin;
    end_ = view_of(last).end;
    for (int half = 0; half < 2; ++half) {
      const int query = first + row(half);
      views_[half] = view_of(min(query, last));
      const BFloat16* dims = query <= last ? query_of(query) : nullptr;
#pragma unroll
      for (int step = 0; step < kHeadDim / 16; ++step) {
        for (int part = 0; part < 2; ++part) {
          const int dim = step * 16 + part * 8 + lane_index() % 4 * 2;
          queries_[step][2 * part + half] =
              dims != nullptr ? *reinterpret_cast<const std::uint32_t*>(dims + dim) : 0U;
        }
      }
    }
  }

  // Of the two that this thread has parts of, as SoftmaxState has.
  PHI3_DEVICE static int row(int half) {
    return static_cast<int>(threadIdx.x) % kWarpgroupSize / kWarpSize * 16 + lane_index() / 4 +
           8 * half;
  }

  // Whether no row sees keys of a tile because it is before those, or behind.
  PHI3_DEVICE bool are_behind(int tile) const { return (tile + 1) * kTileKeys <= begin_; }
  PHI3_DEVICE bool are_before(int tile) const { return tile * kTileKeys >= end_; }

  PHI3_DEVICE TileView view(int tile) const { return {pattern_, views_, tile}; }
  // Whether this thread's rows see all keys of a tile.
  PHI3_DEVICE bool see_all(int tile) const {
    return pattern_.is_dense() && tile * kTileKeys >= views_[1].begin &&
           (tile + 1) * kTileKeys <= views_[0].end;
  }

  // Dims 16 · step to 16 · step + 15, as the factor of a wgmma.
  PHI3_DEVICE const std::uint32_t (&query(int step) const)[4] { return queries_[step]; }

 private:
  BlockPattern pattern_;
  int begin_ = 0;
  int end_ = 0;
  RowView views_[2];
  std::uint32_t queries_[kHeadDim / 16][4];
};

}  // namespace phi3::cuda::sm90
