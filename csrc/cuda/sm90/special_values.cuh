// Values that are infinite or NaN, which the producer takes out of its tiles: 0 · NaN would spoil
// rows that do not see the key.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/params.h"
#include "cuda/attention_keys.cuh"
#include "cuda/attention_tile.cuh"
#include "cuda/ptx.h"

namespace phi3::cuda::sm90 {

// Of a pair of bfloat16 numbers, zeros for those that are not finite.
PHI3_DEVICE std::uint32_t without_specials(std::uint32_t pair) {
  const std::uint32_t low = is_finite(BFloat16{static_cast<std::uint16_t>(pair)}) ? 0xffffU : 0U;
  const std::uint32_t high =
      is_finite(BFloat16{static_cast<std::uint16_t>(pair >> 16)}) ? 0xffff0000U : 0U;
  return pair & (low | high);
}

// The values of one kv head of one sequence, from the pages; slow.
template <typename Kv, int kHeadDim>
class PagedValues {
 public:
  PHI3_DEVICE PagedValues(const AttentionParams& p, int sequence, int kv_head)
      : table_(p.block_tables + sequence * p.block_table_stride),
        values_(static_cast<const Kv*>(p.v_pages) + kv_head * kPageSize * kHeadDim),
        num_pages_(p.num_pages),
        page_stride_(p.num_kv_heads * kPageSize * kHeadDim) {}

  // Adds weight · value for what is infinite or NaN in the tile, for the rows that see it.
  PHI3_DEVICE void weigh_specials(const TileWeights& weights,
                                  const TileView& view,
                                  SoftmaxState<kHeadDim>& state) const {
    const int lane = lane_index();
#pragma unroll
    for (int step = 0; step < kTileKeys / 16; ++step) {
#pragma unroll 1
      for (int k = 0; k < 16; ++k) {
        const int owner = lane / 4 * 4 + k % 8 / 2;
        float row_weights[2];
        for (int half = 0; half < 2; ++half) {
          const std::uint32_t pair =
              __shfl_sync(kAllLanes, k < 8 ? weights[step][half] : weights[step][2 + half], owner);
          row_weights[half] = __uint_as_float(k % 2 == 0 ? pair << 16 : pair & 0xffff0000U);
        }
        const int idx = step * 16 + k;
        const bool sees[2] = {view.sees(0, idx), view.sees(1, idx)};
        if (sees[0] || sees[1]) {
          weigh_key(view.first_key + idx, row_weights, sees, state);
        }
      }
    }
  }

 private:
  PHI3_DEVICE void weigh_key(int key,
                             const float (&weights)[2],
                             const bool (&sees)[2],
                             SoftmaxState<kHeadDim>& state) const {
    const std::int64_t page = table_[key / kPageSize];
    if (page < 0 || page >= num_pages_) return;  // the scores are NaN already
    const Kv* row = values_ + page * page_stride_ + key % kPageSize * kHeadDim;
#pragma unroll
    for (int group = 0; group < kHeadDim / 8; ++group) {
      for (int i = 0; i < 4; ++i) {
        const float value = to_float(row[group * 8 + lane_index() % 4 * 2 + i % 2]);
        if (sees[i / 2] && !is_finite(from_float<BFloat16>(value))) {
          state.out[group][i] = fmaf(weights[i / 2], value, state.out[group][i]);
        }
      }
    }
  }

  const std::int32_t* table_;
  const Kv* values_;
  std::int64_t num_pages_;
  std::int64_t page_stride_;
};

}  // namespace phi3::cuda::sm90
