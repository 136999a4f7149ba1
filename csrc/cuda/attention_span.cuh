// Attention of a warp's rows over one span of keys.
#pragma once

#include <cstdint>

#include "core/params.h"
#include "cuda/attention_keys.cuh"
#include "cuda/attention_rows.cuh"
#include "cuda/attention_tile.cuh"
#include "cuda/ptx.h"

namespace phi3::cuda {

// out += weights · V for values [64, kHeadDim].
template <int kHeadDim>
PHI3_DEVICE void weigh(const TileWeights& weights,
                       const BFloat16* values,
                       SoftmaxState<kHeadDim>& state) {
  constexpr int kStride = kRowStride<kHeadDim>;
  const int lane = lane_index();
  const BFloat16* value = values + lane % 16 * kStride + lane / 16 * 8;
#pragma unroll
  for (int step = 0; step < kTileKeys / 16; ++step) {
#pragma unroll
    for (int group = 0; group < kHeadDim / 8; group += 2) {
      std::uint32_t pairs[4];
      ldmatrix_x4_trans(pairs, value + step * 16 * kStride + group * 8);
      mma_m16n8k16(state.out[group], weights[step], {pairs[0], pairs[1]});
      mma_m16n8k16(state.out[group + 1], weights[step], {pairs[2], pairs[3]});
    }
  }
}

template <int kHeadDim>
PHI3_DEVICE bool any_special(const BFloat16* values) {
  constexpr int kStride = kRowStride<kHeadDim>;
  constexpr int kRowChunks = kHeadDim / 8;
  bool found = false;
#pragma unroll 4
  for (int chunk = lane_index(); chunk < kTileKeys * kRowChunks; chunk += kWarpSize) {
    const uint4 words = *reinterpret_cast<const uint4*>(values + chunk / kRowChunks * kStride +
                                                        chunk % kRowChunks * 8);
    found = found || has_special(words.x) || has_special(words.y) || has_special(words.z) ||
            has_special(words.w);
  }
  return __any_sync(kAllLanes, found) != 0;
}

// Attention over the rest of the span that `tile` is in, of the tiles before `end_tile`. Returns
// the first tile behind it.
template <typename Ring, int kHeadDim>
PHI3_DEVICE KeyTile attend_span(Ring& ring,
                                const KeyView& keys,
                                KeyTile tile,
                                int end_tile,
                                const WarpRows<kHeadDim>& rows,
                                float scale,
                                SoftmaxState<kHeadDim>& state) {
  const int span = tile.idx / kSpanTiles;
  state.clear();
  while (tile.idx < end_tile && tile.idx / kSpanTiles == span) {
    const KeyTile next = keys.next(tile.idx + 1, end_tile);
    const bool is_seen = rows.sees(tile.idx);
    const bool is_all_seen = rows.sees_all(tile.idx);
    TileWeights weights;
    const BFloat16* tile_keys = ring.take_keys(next);
    if (is_seen) {
      TileScores scores;
      rows.score(tile_keys, scores);
      scale_scores(scores, scale);
      if (!is_all_seen) hide_unseen(scores, rows.view(tile.idx));
      soften(scores, state, weights);
    }
    const BFloat16* values = ring.take_values(next);
    if (is_seen) {
      if (!is_all_seen && any_special<kHeadDim>(values)) {
        weigh_specials(
            weights,
            rows.view(tile.idx),
            [&](int key, int dim) { return values[key * kRowStride<kHeadDim> + dim]; },
            state);
      } else {
        weigh(weights, values, state);
      }
    }
    tile = next;
  }
  finish_sums(state);
  return tile;
}

}  // namespace phi3::cuda
