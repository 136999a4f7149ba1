// Attention of a few query rows over all the keys that they see, one span after the other.
#pragma once

#include "cpu/query_tile.h"

namespace phi3::cpu {

// Rows are sorted by query, so both ends of what they see grow with the row.
class DenseTile : QueryTile {
 public:
  // Tiles of one kv head for so many queries of a sequence.
  static std::int64_t count(const Kernels&, const AttentionParams& params, std::int64_t queries) {
    return ceil_div(queries * (params.num_heads / params.num_kv_heads), kQueryRows);
  }

  DenseTile(const Kernels& isa,
            const AttentionParams& params,
            std::int64_t sequence,
            std::int64_t kv_head,
            std::int64_t tile)
      : QueryTile(isa, params, sequence, kv_head) {
    const std::int64_t begin = tile * kQueryRows;
    const std::int64_t end = std::min(begin + kQueryRows, num_queries_ * group_);
    for (std::int64_t row = begin; row < end; ++row) {
      add_row(row / group_, row % group_);
      const int r = num_rows_ - 1;
      firsts_[r] = params.window > 0 ? std::max<std::int64_t>(0, ends_[r] - params.window) : 0;
    }
  }

  void run() {
    for (std::int64_t span = firsts_[0] / kSpanKeys; span * kSpanKeys < ends_[num_rows_ - 1];
         ++span) {
      run_span(span);
    }
    store_rows();
  }

 private:
  void run_span(std::int64_t span) {
    const std::int64_t base = span * kSpanKeys;
    int begin = num_rows_;
    int end = 0;
    for (int r = 0; r < num_rows_; ++r) {
      lo_[r] = static_cast<int>(std::clamp<std::int64_t>(firsts_[r] - base, 0, kSpanKeys));
      hi_[r] = static_cast<int>(std::clamp<std::int64_t>(ends_[r] - base, 0, kSpanKeys));
      if (lo_[r] < hi_[r]) {
        begin = std::min(begin, r);
        end = r + 1;
      }
    }
    if (begin >= end) return;
    const int first_page = lo_[begin] / kLanes;
    const int end_page = (hi_[end - 1] + kLanes - 1) / kLanes;
    for (int page = first_page; page < end_page; ++page) set_page(page, base / kPageSize + page);
    set_prefetch(base, first_page, end_page);
    const int num_blocks = static_cast<int>(ceil_div(end - begin, isa_.tile_rows));
    for (int block = 0; block < num_blocks; ++block) {
      const int row = begin + static_cast<int>(even_part(end - begin, num_blocks, block));
      const int row_end = begin + static_cast<int>(even_part(end - begin, num_blocks, block + 1));
      score(row, row_end, lo_[row] / kLanes, (hi_[row_end - 1] + kLanes - 1) / kLanes);
      for (int r = row; r < row_end; ++r) {
        if (is_int8()) isa_.scale_keys(scores_[r], k_scales_, lo_[r], hi_[r]);
        soften(r, lo_[r], hi_[r]);
        if (is_int8()) isa_.scale_keys(scores_[r], v_scales_, lo_[r], hi_[r]);
      }
      weigh_values(row, row_end);
      for (int r = row; r < row_end; ++r) merge(r);
    }
  }

  // A decode reads each page once and computes little on it, so each fetches one that comes later:
  // keys, then values, then the keys of the next span.
  void set_prefetch(std::int64_t base, int first_page, int end_page) {
    // An int8 page is over sooner, so it is asked for earlier: by as many pages as the span reads.
    const int ahead = is_int8() ? end_page - first_page : kTilePanels;
    for (int page = first_page; page < end_page; ++page) {
      const int after_end = page + ahead - end_page;
      k_prefetch_[page] = after_end < 0 ? k_pages_[page + ahead]
                                        : v_pages_[std::min(first_page + after_end, end_page - 1)];
      const std::int64_t next_key_page = base / kPageSize + kSpanPages + after_end;
      v_prefetch_[page] = after_end < 0 ? v_pages_[page + ahead]
                          : next_key_page * kPageSize < ends_[num_rows_ - 1]
                              ? page_of(params_.k_pages, next_key_page)
                              : nullptr;
    }
  }

  // Rows share the keys that all of them see; what only some see is added row by row, before and
  // after, so that each row's chain keeps the order of the keys and never touches one that the row
  // may not see.
  void weigh_values(int row, int row_end) {
    const int shared_lo = lo_[row_end - 1];
    const int shared_hi = hi_[row];
    if (shared_lo >= shared_hi) {
      for (int r = row; r < row_end; ++r) add_values(r, r + 1, lo_[r], hi_[r]);
      return;
    }
    for (int r = row; r < row_end; ++r) add_values(r, r + 1, lo_[r], shared_lo);
    add_values(row, row_end, shared_lo, shared_hi);
    for (int r = row; r < row_end; ++r) add_values(r, r + 1, shared_hi, hi_[r]);
  }

  std::int64_t firsts_[kQueryRows];  // keys [first, end) are visible
  int lo_[kQueryRows];               // the same within the current span
  int hi_[kQueryRows];
};

}  // namespace phi3::cpu
