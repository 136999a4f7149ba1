// Which blocks of keys a query head sees in block-sparse attention, see BlockSparse.
#pragma once

#include <cstdint>

#include "core/params.h"
#include "cuda/ptx.h"

namespace phi3::cuda {

class BlockPattern {
 public:
  PHI3_DEVICE explicit BlockPattern(const BlockSparse& sparse)
      : num_local_blocks_(static_cast<int>(sparse.num_local_blocks)),
        stride_(static_cast<int>(sparse.vertical_stride)),
        head_step_(static_cast<int>(sparse.head_step)) {
    while (1 << shift_ < sparse.block_size) ++shift_;
  }

  PHI3_DEVICE bool is_dense() const { return shift_ == 0; }

  // Blocks first_vertical(head), + stride, + stride, … are seen from everywhere behind them.
  PHI3_DEVICE int first_vertical(int head) const {
    if (is_dense()) return 0;
    return stride_ - 1 - static_cast<int>(std::int64_t{head} * head_step_ % stride_);
  }

  // A bit for each of the `num_pages` pages from this one on whose block is seen by the query
  // before key `end`; `is_vertical(place)` tells whether its head sees the blocks at this place of
  // every stride. Pages behind the query have any bit.
  template <typename IsVertical>
  PHI3_DEVICE unsigned seen_pages(int end,
                                  int first_page,
                                  int num_pages,
                                  IsVertical is_vertical) const {
    const unsigned all = (1U << num_pages) - 1;
    if (is_dense()) return all;
    const int page_shift = shift_ - kPageShift;
    const int query_block = (end - 1) >> shift_;
    const unsigned block_pages = page_shift < kMaxPageShift ? (1U << (1 << page_shift)) - 1 : all;
    unsigned seen = 0;
    for (int page = 0; page < num_pages; page += 1 << page_shift) {
      const int block = (first_page + page) >> page_shift;
      if (query_block - block < num_local_blocks_ || is_vertical(block % stride_)) {
        seen |= block_pages << page;
      }
    }
    return seen & all;
  }

 private:
  static constexpr int kPageShift = 4;
  static constexpr int kMaxPageShift = 4;  // blocks of 256 keys, 16 pages
  static_assert(kPageSize == 1 << kPageShift);

  int shift_ = 0;  // log2 of the block size; 0 where attention is dense
  int num_local_blocks_;
  int stride_;
  int head_step_;
};

}  // namespace phi3::cuda
