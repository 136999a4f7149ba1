// Attention of few queries over many keys: a block is one warp and has spans of one sequence and
// kv head; the rows of the head's group share the keys.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/params.h"
#include "cuda/attention_keys.cuh"
#include "cuda/attention_merge.cuh"
#include "cuda/attention_plan.h"
#include "cuda/attention_rows.cuh"
#include "cuda/attention_span.cuh"
#include "cuda/attention_view.cuh"
#include "cuda/ptx.h"

namespace phi3::cuda {

struct DecodeParams {
  AttentionParams op;
  float scale;             // of scores, to units of log2
  int max_decode_queries;  // sequences with more are not this kernel's
  DecodeRange range;
  unsigned* counters;  // [sequences of the range, K]: blocks that are done; 0 before and after
  Partials partials;
};

template <typename Kv, int kHeadDim>
using DecodeRing = TileRing<Kv, kHeadDim, 1>;

template <typename Kv, int kHeadDim>
inline constexpr std::size_t kDecodeSharedBytes =
    DecodeRing<Kv, kHeadDim>::kSharedBytes + WarpRows<kHeadDim>::kSharedBytes;

// The rows of a block: queries [begin, end) of the sequence, each with all heads of the group.
class DecodeRows {
 public:
  PHI3_DEVICE DecodeRows(const DecodeParams& p, const Sequence& sequence, int kv_head)
      : p_(p), sequence_(sequence), group_(static_cast<int>(p.op.num_heads / p.op.num_kv_heads)) {
    first_head_ = kv_head * group_;
    begin_ = max(p.range.first_query, p.range.first_token - sequence.start);
    const int end = min(p.range.end_query, p.range.end_token - sequence.start);
    count_ = max(min(end, sequence.num_queries) - begin_, 0) * group_;
  }

  PHI3_DEVICE int count() const { return count_; }
  PHI3_DEVICE int group() const { return group_; }
  PHI3_DEVICE int first_head() const { return first_head_; }
  PHI3_DEVICE int query_of(int row) const { return begin_ + row / group_; }
  PHI3_DEVICE int head_of(int row) const { return first_head_ + row % group_; }

  PHI3_DEVICE RowView view_of(const BlockPattern& pattern, int row) const {
    return row_view(p_.op, pattern, sequence_.end_of(query_of(row)), head_of(row));
  }

  // Of the row's head in q and out.
  PHI3_DEVICE std::int64_t offset_of(int row) const {
    const std::int64_t token = sequence_.start + query_of(row);
    return (token * p_.op.num_heads + head_of(row)) * p_.op.head_dim;
  }

  // Where the row's spans are kept.
  PHI3_DEVICE std::int64_t partials_of(int row) const {
    const DecodeRange& range = p_.range;
    const std::int64_t slot =
        range.by_sequence
            ? std::int64_t{static_cast<int>(blockIdx.z)} * (range.end_query - range.first_query) +
                  query_of(row) - range.first_query
            : sequence_.start + query_of(row) - range.first_token;
    return p_.partials.place(slot, head_of(row), 0);
  }

 private:
  const DecodeParams& p_;
  const Sequence& sequence_;
  int group_;
  int first_head_;
  int begin_;
  int count_;
};

PHI3_DEVICE void spoil(const DecodeParams& p, const DecodeRows& rows) {
  for (int row = 0; row < rows.count(); ++row) {
    auto* out = static_cast<BFloat16*>(p.op.out) + rows.offset_of(row);
    for (int dim = lane_index(); dim < p.op.head_dim; dim += kWarpSize) out[dim] = {0x7fc0U};
  }
}

// Whether the calling block is the last of `num_blocks` to come here; what the others have stored
// before is visible then.
PHI3_DEVICE bool is_last_block(unsigned* counter, int num_blocks) {
  __syncwarp();  // the fence is then for what all lanes have stored
  unsigned before = 0;
  if (lane_index() == 0) {
    __threadfence();
    before = atomicAdd(counter, 1U);
  }
  before = __shfl_sync(kAllLanes, before, 0);
  if (before != static_cast<unsigned>(num_blocks - 1)) return false;
  if (lane_index() == 0) *counter = 0;
  __threadfence();
  return true;
}

// Grid: blocks to share a sequence's spans, K, sequences.
template <typename Kv, int kHeadDim>
__global__ void __launch_bounds__(kWarpSize, 1) attention_decode(const DecodeParams p) {
  const int kv_head = static_cast<int>(blockIdx.y);
  const int sequence_idx = p.range.first_sequence + static_cast<int>(blockIdx.z);
  const Sequence sequence = sequence_of(p.op, sequence_idx);
  if (sequence.num_queries > p.max_decode_queries) return;
  const DecodeRows rows(p, sequence, kv_head);
  if (rows.count() == 0) return;
  if (!sequence.is_valid) {
    if (blockIdx.x == 0) spoil(p, rows);
    return;
  }
  const BlockPattern pattern(p.op.block_sparse);
  const int first_span = rows.view_of(pattern, 0).first_span();
  const int end_span = rows.view_of(pattern, rows.count() - 1).end_span();
  const int num_blocks = min(end_span - first_span, static_cast<int>(gridDim.x));
  if (static_cast<int>(blockIdx.x) >= num_blocks) return;
  const bool is_one_span = end_span - first_span == 1;
  const int head_dim = static_cast<int>(p.op.head_dim);
  auto* const out = static_cast<BFloat16*>(p.op.out);

  for (int span = first_span + static_cast<int>(blockIdx.x); span < end_span;
       span += static_cast<int>(gridDim.x)) {
    for (int first_row = 0; first_row < rows.count(); first_row += 16) {
      const int num_rows = min(rows.count() - first_row, 16);
      const auto view_of = [&](int row) { return rows.view_of(pattern, first_row + row); };
      __syncwarp();  // the rows and tiles before are done with
      const WarpRows<kHeadDim> warp_rows(
          pattern,
          num_rows,
          head_dim,
          view_of,
          [&](int row) {
            return static_cast<const BFloat16*>(p.op.q) + rows.offset_of(first_row + row);
          },
          reinterpret_cast<BFloat16*>(shared_memory() + DecodeRing<Kv, kHeadDim>::kSharedBytes));
      const KeyView keys(
          pattern, view_of(0), view_of(num_rows - 1), rows.first_head(), rows.group());
      const int end_tile = min(keys.end_tile(), (span + 1) * kSpanTiles);
      const KeyTile tile = keys.next(max(keys.begin_tile(), span * kSpanTiles), end_tile);
      DecodeRing<Kv, kHeadDim> ring(p.op, keys, sequence_idx, kv_head, tile);
      SoftmaxState<kHeadDim> state;
      attend_span(ring, keys, tile, end_tile, warp_rows, p.scale, state);
      for (int half = 0; half < 2; ++half) {
        if (!warp_rows.has(half)) continue;
        const int row = first_row + lane_index() / 4 + 8 * half;
        const RowView view = rows.view_of(pattern, row);
        if (is_one_span) {
          store_row(state, half, head_dim, out + rows.offset_of(row));
        } else if (span >= view.first_span() && span < view.end_span()) {
          store_partial(state, half, p.partials, rows.partials_of(row) + span - view.first_span());
        }
      }
    }
  }
  if (is_one_span) return;
  unsigned* counter = p.counters + blockIdx.z * p.op.num_kv_heads + kv_head;
  if (!is_last_block(counter, num_blocks)) return;
  for (int row = 0; row < rows.count(); ++row) {
    const RowView view = rows.view_of(pattern, row);
    merge_partials<kHeadDim>(p.partials,
                             rows.partials_of(row),
                             view.end_span() - view.first_span(),
                             out + rows.offset_of(row));
  }
}

}  // namespace phi3::cuda
