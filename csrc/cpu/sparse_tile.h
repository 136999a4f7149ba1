// Block-sparse attention of a few query rows: span after span as DenseTile, but only over the pages
// that a row's head sees.
#pragma once

#include <bit>
#include <limits>

#include "cpu/block_pattern.h"
#include "cpu/query_tile.h"

namespace phi3::cpu {

// Rows are sorted by head, then query: neighbours see nearly the same blocks. Blocks are whole
// pages, so what a row sees of a span is a bit per page, cut off at the row's end.
class SparseTile : QueryTile {
 public:
  // Tiles of one kv head for so many queries of a sequence.
  static std::int64_t count(const Kernels& isa,
                            const AttentionParams& params,
                            std::int64_t queries) {
    const Shape shape(isa, params);
    return ceil_div(queries, shape.num_queries) * shape.num_head_parts;
  }

  SparseTile(const Kernels& isa,
             const AttentionParams& params,
             std::int64_t sequence,
             std::int64_t kv_head,
             std::int64_t tile)
      : QueryTile(isa, params, sequence, kv_head) {
    const Shape shape(isa, params);
    const std::int64_t part = tile % shape.num_head_parts;
    const std::int64_t head_end = even_part(group_, shape.num_head_parts, part + 1);
    const std::int64_t begin = tile / shape.num_head_parts * shape.num_queries;
    const std::int64_t end = std::min(begin + shape.num_queries, num_queries_);
    for (std::int64_t head = even_part(group_, shape.num_head_parts, part); head < head_end;
         ++head) {
      const BlockPattern pattern(params.block_sparse, kv_head * group_ + head);
      for (std::int64_t query = begin; query < end; ++query) {
        add_row(query, head);
        const int r = num_rows_ - 1;
        patterns_[r] = pattern;
        query_blocks_[r] = (ends_[r] - 1) / params.block_sparse.block_size;
      }
    }
    num_spans_ = ceil_div(ends_[num_rows_ - 1], kSpanKeys);
  }

  void run() {
    find_next(0);
    while (next_.span < num_spans_) {
      now_ = next_;
      find_next(now_.span + 1);
      run_span();
    }
    store_rows();
  }

 private:
  using Pages = std::uint32_t;  // a bit for each page of a span
  static_assert(kSpanPages < 32);

  // How the rows of a kv head, queries times heads of the group, are cut into tiles.
  struct Shape {
    Shape(const Kernels& isa, const AttentionParams& params) {
      const std::int64_t group = params.num_heads / params.num_kv_heads;
      num_head_parts = ceil_div(group, kQueryRows);
      num_queries = kQueryRows / ceil_div(group, num_head_parts);
      // Whole register tiles of one head share all of their pages.
      if (num_queries > isa.tile_rows) num_queries -= num_queries % isa.tile_rows;
    }

    std::int64_t num_head_parts;
    std::int64_t num_queries;
  };

  // What the rows see of a span.
  struct View {
    std::int64_t span;
    Pages all;  // what any row sees
    Pages seen[kQueryRows];
  };

  // `next_` becomes the first span from this one on of which a row sees something.
  void find_next(std::int64_t span) {
    next_.all = 0;
    for (; next_.all == 0 && span < num_spans_; ++span) {
      for (int r = 0; r < num_rows_; ++r) {
        next_.seen[r] = pages_of(r, span);
        next_.all |= next_.seen[r];
      }
      next_.span = span;
    }
    if (next_.all == 0) next_.span = num_spans_;
  }

  Pages pages_of(int r, std::int64_t span) const {
    const std::int64_t num_keys = ends_[r] - span * kSpanKeys;
    if (num_keys <= 0) return 0;
    const auto block_pages = static_cast<int>(params_.block_sparse.block_size / kPageSize);
    std::int64_t block = span * kSpanPages / block_pages;
    Pages pages = 0;
    for (int page = 0; page * kPageSize < std::min<std::int64_t>(num_keys, kSpanKeys);
         page += block_pages, ++block) {
      if (patterns_[r].sees(query_blocks_[r], block)) pages |= first_pages(block_pages) << page;
    }
    const std::int64_t end = ceil_div(num_keys, kPageSize);
    return end < kSpanPages ? pages & first_pages(static_cast<int>(end)) : pages;
  }

  static Pages first_pages(int count) { return (Pages{1} << count) - 1; }

  void run_span() {
    const std::int64_t base = now_.span * kSpanKeys;
    for (int r = 0; r < num_rows_; ++r) {
      const int seen_end = std::bit_width(now_.seen[r]) * kLanes;
      hi_[r] = static_cast<int>(std::clamp<std::int64_t>(ends_[r] - base, 0, seen_end));
    }
    for (Pages left = now_.all; left != 0; left &= left - 1) {
      const int page = std::countr_zero(left);
      set_page(page, base / kPageSize + page);
    }
    set_prefetch();
    const int num_blocks = static_cast<int>(ceil_div(num_rows_, isa_.tile_rows));
    for (int block = 0; block < num_blocks; ++block) {
      const int row = static_cast<int>(even_part(num_rows_, num_blocks, block));
      const int row_end = static_cast<int>(even_part(num_rows_, num_blocks, block + 1));
      run_rows(row, row_end);
    }
  }

  void run_rows(int row, int row_end) {
    for_each_run(row, row_end, [&](int first_row, int end_row, int page, int end_page) {
      score(first_row, end_row, page, end_page);
    });
    for (int r = row; r < row_end; ++r) {
      if (now_.seen[r] == 0) continue;
      scale_seen(r, k_scales_);
      hide_unseen(r);
      soften(r, std::countr_zero(now_.seen[r]) * kLanes, hi_[r]);
      scale_seen(r, v_scales_);
    }
    for_each_run(row, row_end, [&](int first_row, int end_row, int page, int end_page) {
      weigh_values(first_row, end_row, page * kLanes, end_page * kLanes);
    });
    for (int r = row; r < row_end; ++r) {
      if (now_.seen[r] != 0) merge(r);
    }
  }

  // Calls fn(row, end of rows, page, end of pages) for rectangles of seen pages that cover, in the
  // order of the pages, all that rows [row, row_end) see.
  template <typename Fn>
  void for_each_run(int row, int row_end, Fn fn) const {
    for (int page = 0; page < kSpanPages;) {
      const std::uint32_t rows = rows_that_see(page, row, row_end);
      int end_page = page + 1;
      while (end_page < kSpanPages && rows_that_see(end_page, row, row_end) == rows) ++end_page;
      for (std::uint32_t left = rows; left != 0;) {
        const int first = std::countr_zero(left);
        const int count = std::countr_one(left >> first);
        fn(row + first, row + first + count, page, end_page);
        left &= ~(((1U << count) - 1) << first);
      }
      page = end_page;
    }
  }

  // A bit for each of the rows [row, row_end).
  std::uint32_t rows_that_see(int page, int row, int row_end) const {
    std::uint32_t rows = 0;
    for (int r = row; r < row_end; ++r) rows |= (now_.seen[r] >> page & 1U) << (r - row);
    return rows;
  }

  void scale_seen(int r, const float* const* scales) {
    if (!is_int8()) return;
    for (Pages left = now_.seen[r]; left != 0; left &= left - 1) {
      const int key = std::countr_zero(left) * kLanes;
      isa_.scale_keys(scores_[r], scales, key, key + kLanes);
    }
  }

  // Unseen keys between seen ones get weight 0.
  void hide_unseen(int r) {
    const Pages between = first_pages(std::bit_width(now_.seen[r])) & ~now_.seen[r];
    for (Pages left = between; left != 0; left &= left - 1) {
      float* page = scores_[r] + std::countr_zero(left) * kLanes;
      std::fill_n(page, kLanes, -std::numeric_limits<float>::infinity());
    }
  }

  // Keys [first, end) are seen by all rows, except those in the last page that are behind a row's
  // end.
  void weigh_values(int row, int row_end, int first, int end) {
    const int shared = std::min(end, *std::min_element(hi_ + row, hi_ + row_end));
    add_values(row, row_end, first, shared);
    for (int r = row; r < row_end; ++r) add_values(r, r + 1, shared, std::min(end, hi_[r]));
  }

  // As in DenseTile, over the pages that are read.
  void set_prefetch() {
    int order[kSpanPages];
    int count = 0;
    for (int page = 0; page < kSpanPages; ++page) {
      if ((now_.all >> page & 1U) != 0) order[count++] = page;
    }
    const int ahead = is_int8() ? count : kTilePanels;
    Pages next_pages = next_.all;
    for (int i = 0; i < count; ++i) {
      const int after_end = i + ahead - count;
      if (after_end < 0) {
        k_prefetch_[order[i]] = k_pages_[order[i + ahead]];
        v_prefetch_[order[i]] = v_pages_[order[i + ahead]];
        continue;
      }
      k_prefetch_[order[i]] = v_pages_[order[std::min(after_end, count - 1)]];
      v_prefetch_[order[i]] = nullptr;
      if (next_pages == 0) continue;
      v_prefetch_[order[i]] =
          page_of(params_.k_pages, next_.span * kSpanPages + std::countr_zero(next_pages));
      next_pages &= next_pages - 1;
    }
  }

  BlockPattern patterns_[kQueryRows];
  std::int64_t query_blocks_[kQueryRows];
  std::int64_t num_spans_;
  View now_;
  View next_;
  int hi_[kQueryRows];  // end of what a row sees of the current span
};

}  // namespace phi3::cpu
