// Whose queries a block has, and which keys they see.
#pragma once

#include <cstdint>

#include "core/params.h"
#include "cuda/block_pattern.cuh"
#include "cuda/ptx.h"

namespace phi3::cuda {

inline constexpr int kMaxCudaHeadDim = 128;
inline constexpr int kSpanKeys = 256;
inline constexpr int kTileKeys = 64;
inline constexpr int kSpanTiles = kSpanKeys / kTileKeys;
inline constexpr int kTilePages = kTileKeys / static_cast<int>(kPageSize);
inline constexpr int kSpanPages = kSpanKeys / static_cast<int>(kPageSize);

PHI3_HOST_DEVICE constexpr int ceil_div(int value, int divisor) {
  return (value + divisor - 1) / divisor;
}

PHI3_DEVICE int lane_index() { return static_cast<int>(threadIdx.x) % kWarpSize; }

struct Sequence {
  int start;        // of its queries in q
  int num_queries;  // at its end
  int context_len;
  bool is_valid;  // else its rows become NaN

  PHI3_DEVICE int end_of(int query) const { return context_len - num_queries + query + 1; }
};

// Within bounds whatever the tensors hold.
PHI3_DEVICE Sequence sequence_of(const AttentionParams& p, int idx) {
  const int num_tokens = static_cast<int>(p.num_tokens);
  const int start = min(max(p.query_starts[idx], 0), num_tokens);
  const int end = min(max(p.query_starts[idx + 1], start), num_tokens);
  const int context_len = p.context_lens[idx];
  return {.start = start,
          .num_queries = end - start,
          .context_len = context_len,
          .is_valid = context_len >= end - start && context_len <= p.table_len * kPageSize};
}

// Keys [begin, end) of the sequence, and of these, with a pattern, the blocks of a head.
struct RowView {
  int begin;
  int end;
  int first_vertical;

  PHI3_DEVICE int first_span() const { return begin / kSpanKeys; }
  PHI3_DEVICE int end_span() const { return ceil_div(end, kSpanKeys); }
};

PHI3_DEVICE RowView row_view(const AttentionParams& p,
                             const BlockPattern& pattern,
                             int end,
                             int head) {
  const std::int64_t begin = p.window > 0 ? end - p.window : 0;
  return {.begin = begin > 0 ? static_cast<int>(begin) : 0,
          .end = end,
          .first_vertical = pattern.first_vertical(head)};
}

// A bit for each page of a key tile in whose block the row sees keys.
PHI3_DEVICE unsigned seen_pages(const BlockPattern& pattern, const RowView& row, int tile) {
  return pattern.seen_pages(row.end, tile * kTilePages, kTilePages, [&](int place) {
    return place == row.first_vertical;
  });
}

// A tile of 64 keys with a bit for each of its pages to be read.
struct KeyTile {
  int idx;
  unsigned pages;
};

// What any row of a block sees. Equal in all threads of a warp.
class KeyView {
 public:
  // Of the queries whose first and last rows these are, with any of the heads.
  PHI3_DEVICE KeyView(const BlockPattern& pattern,
                      const RowView& first,
                      const RowView& last,
                      int first_head,
                      int num_heads)
      : pattern_(pattern),
        begin_(first.begin),
        end_(last.end),
        first_end_(first.end),
        has_all_heads_(num_heads > kWarpSize),
        lane_vertical_(lane_index() < num_heads ? pattern.first_vertical(first_head + lane_index())
                                                : -1) {}

  PHI3_DEVICE int begin_tile() const { return begin_ / kTileKeys; }
  PHI3_DEVICE int end_tile() const { return ceil_div(end_, kTileKeys); }
  PHI3_DEVICE bool has_key(int key) const { return key >= begin_ && key < end_; }

  // The first tile from `idx` on of which a row sees something, or `end`.
  PHI3_DEVICE KeyTile next(int idx, int end) const {
    for (; idx < end; ++idx) {
      const unsigned pages = pages_of(idx);
      if (pages != 0) return {idx, pages};
    }
    return {end, 0};
  }

 private:
  // May have pages that no row sees: the rows know what they see.
  PHI3_DEVICE unsigned pages_of(int tile) const {
    const int first_key = tile * kTileKeys;
    const int begin = max(begin_ - first_key, 0);
    const int end = min(end_ - first_key, kTileKeys);
    if (begin >= end) return 0;
    constexpr int kPageKeys = static_cast<int>(kPageSize);
    const unsigned in_range = (1U << ceil_div(end, kPageKeys)) - (1U << (begin / kPageKeys));
    if (has_all_heads_) return in_range;
    // The first query's local blocks reach farthest back.
    return in_range &
           pattern_.seen_pages(first_end_, tile * kTilePages, kTilePages, [&](int place) {
             return __any_sync(kAllLanes, place == lane_vertical_) != 0;
           });
  }

  BlockPattern pattern_;
  int begin_;
  int end_;
  int first_end_;
  bool has_all_heads_;  // more than there are lanes to hold them
  int lane_vertical_;   // of head `lane`
};

// A prefill block's rows: queries from this one on, of a sequence that the decode kernel leaves.
struct QueryTile {
  int sequence;  // -1 where there are fewer tiles
  int first_query;
};

// The tile of this number among all the tiles of `tile_queries` queries of the sequences with more
// than `max_decode_queries` queries. Equal in all threads of a warp.
PHI3_DEVICE QueryTile find_query_tile(const AttentionParams& p,
                                      int tile,
                                      int tile_queries,
                                      int max_decode_queries) {
  const int lane = lane_index();
  for (int base = 0; base < p.num_sequences; base += kWarpSize) {
    int count = 0;
    if (base + lane < p.num_sequences) {
      const int num_queries = sequence_of(p, base + lane).num_queries;
      if (num_queries > max_decode_queries) count = ceil_div(num_queries, tile_queries);
    }
    int end = count;  // tiles of this and the sequences before it
    for (int step = 1; step < kWarpSize; step *= 2) {
      const int before = __shfl_up_sync(kAllLanes, end, step);
      if (lane >= step) end += before;
    }
    const unsigned behind = __ballot_sync(kAllLanes, tile < end);
    if (behind != 0) {
      const int owner = __ffs(static_cast<int>(behind)) - 1;
      const int first = __shfl_sync(kAllLanes, end - count, owner);
      return {base + owner, (tile - first) * tile_queries};
    }
    tile -= __shfl_sync(kAllLanes, end, kWarpSize - 1);
  }
  return {-1, 0};
}

}  // namespace phi3::cuda
