// A warp's 16 query rows.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cuda/attention_tile.cuh"
#include "cuda/attention_view.cuh"
#include "cuda/ptx.h"

namespace phi3::cuda {

// What a warp's rows see: rows in rising order of their positions, of which this thread has g and
// g + 8.
class WarpViews {
 public:
  // `view_of(row)` is asked for rows below `num_rows` only; the rows from there on see what the
  // last row sees and come to nothing.
  template <typename ViewOf>
  PHI3_DEVICE WarpViews(const BlockPattern& pattern, int num_rows, ViewOf view_of)
      : pattern_(pattern), num_rows_(num_rows) {
    if (num_rows == 0) return;
    begin_ = view_of(0).begin;
    last_begin_ = view_of(num_rows - 1).begin;
    first_end_ = view_of(0).end;
    end_ = view_of(num_rows - 1).end;
    for (int half = 0; half < 2; ++half) {
      views_[half] = view_of(min(lane_index() / 4 + 8 * half, num_rows - 1));
    }
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

 private:
  BlockPattern pattern_;
  int num_rows_;
  int begin_, last_begin_, first_end_, end_;
  RowView views_[2];
};

// Rows whose queries lie in registers.
template <int kHeadDim>
class WarpRows : public WarpViews {
 public:
  // `query_of(row)` (A [D]) is asked for rows below `num_rows` only.
  template <typename ViewOf, typename QueryOf>
  PHI3_DEVICE WarpRows(
      const BlockPattern& pattern, int num_rows, int head_dim, ViewOf view_of, QueryOf query_of)
      : WarpViews(pattern, num_rows, view_of) {
    for (int half = 0; half < 2; ++half) {
      const BFloat16* query = has(half) ? query_of(lane_index() / 4 + 8 * half) : nullptr;
#pragma unroll
      for (int step = 0; step < kHeadDim / 16; ++step) {
        for (int part = 0; part < 2; ++part) {
          const int dim = step * 16 + part * 8 + lane_index() % 4 * 2;
          queries_[step][2 * part + half] =
              query != nullptr && dim < head_dim
                  ? *reinterpret_cast<const std::uint32_t*>(query + dim)
                  : 0U;
        }
      }
    }
  }

  PHI3_DEVICE const std::uint32_t (&query(int step) const)[4] { return queries_[step]; }

 private:
  std::uint32_t queries_[kHeadDim / 16][4];  // as an A operand
};

}  // namespace phi3::cuda
