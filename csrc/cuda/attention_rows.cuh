// A warp's 16 query rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "cuda/attention_keys.cuh"
#include "cuda/attention_tile.cuh"
#include "cuda/attention_view.cuh"
#include "cuda/ptx.h"

namespace phi3::cuda {

// Rows in rising order of their positions, of which this thread has g and g + 8. Their queries lie
// in shared memory of the warp, where they cost no registers.
template <int kHeadDim>
class WarpRows {
 public:
  static constexpr std::size_t kSharedBytes = 16 * kRowStride<kHeadDim> * sizeof(BFloat16);

  // `view_of(row)` and `query_of(row)` (A [D]) are asked for rows below `num_rows` only; the rows
  // from there on see what the last row sees and come to nothing. `queries` is the shared memory.
  template <typename ViewOf, typename QueryOf>
  PHI3_DEVICE WarpRows(const BlockPattern& pattern,
                       int num_rows,
                       int head_dim,
                       ViewOf view_of,
                       QueryOf query_of,
                       BFloat16* queries)
      : pattern_(pattern), num_rows_(num_rows), queries_(queries) {
    if (num_rows == 0) return;
    begin_ = view_of(0).begin;
    last_begin_ = view_of(num_rows - 1).begin;
    first_end_ = view_of(0).end;
    end_ = view_of(num_rows - 1).end;
    for (int half = 0; half < 2; ++half) {
      views_[half] = view_of(min(lane_index() / 4 + 8 * half, num_rows - 1));
    }
    // Two lanes to a row.
    const int row = lane_index() / 2;
    const BFloat16* query = row < num_rows ? query_of(row) : nullptr;
    for (int dim = lane_index() % 2 * 8; dim < kHeadDim; dim += 16) {
      const bool is_valid = query != nullptr && dim < head_dim;
      *reinterpret_cast<uint4*>(queries + row * kRowStride<kHeadDim> + dim) =
          is_valid ? *reinterpret_cast<const uint4*>(query + dim) : make_uint4(0, 0, 0, 0);
    }
    __syncwarp();
  }

  PHI3_DEVICE bool has(int half) const { return lane_index() / 4 + 8 * half < num_rows_; }

  // Whether a row may see keys of a tile.
  PHI3_DEVICE bool sees(int tile) const {
    return num_rows_ > 0 && tile * kTileKeys < end_ && (tile + 1) * kTileKeys > begin_;
  }
  // Whether all rows see all of its keys.
  PHI3_DEVICE bool sees_all(int tile) const {
    return pattern_.is_dense() && tile * kTileKeys >= last_begin_ &&
           (tile + 1) * kTileKeys <= first_end_;
  }

  PHI3_DEVICE TileView view(int tile) const { return {pattern_, views_, tile}; }

  // Scores with the keys [64, kHeadDim].
  PHI3_DEVICE void score(const BFloat16* keys, TileScores& scores) const {
    constexpr int kStride = kRowStride<kHeadDim>;
    const int lane = lane_index();
    const BFloat16* query = queries_ + lane % 16 * kStride + lane / 16 * 8;
    const BFloat16* key = keys + (lane % 8 + lane / 16 * 8) * kStride + lane / 8 % 2 * 8;
#pragma unroll
    for (auto& group : scores) {
      for (float& score : group) score = 0.0F;
    }
#pragma unroll
    for (int dim = 0; dim < kHeadDim; dim += 16) {
      std::uint32_t rows[4];
      ldmatrix_x4(rows, query + dim);
#pragma unroll
      for (int group = 0; group < kTileKeys / 8; group += 2) {
        std::uint32_t pairs[4];
        ldmatrix_x4(pairs, key + group * 8 * kStride + dim);
        mma_m16n8k16(scores[group], rows, {pairs[0], pairs[1]});
        mma_m16n8k16(scores[group + 1], rows, {pairs[2], pairs[3]});
      }
    }
  }

 private:
  BlockPattern pattern_;
  int num_rows_;
  int begin_, last_begin_, first_end_, end_;
  RowView views_[2];
  const BFloat16* queries_;
};

}  // namespace phi3::cuda
