// Attention of many queries: a block has 64 of one sequence and head, 16 to a warp, and goes
// through all the keys they see.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/params.h"
#include "cuda/attention_keys.cuh"
#include "cuda/attention_merge.cuh"
#include "cuda/attention_rows.cuh"
#include "cuda/attention_span.cuh"
#include "cuda/attention_view.cuh"
#include "cuda/ptx.h"

namespace phi3::cuda {

struct PrefillParams {
  AttentionParams op;
  float scale;             // of scores, to units of log2
  int max_decode_queries;  // sequences with no more are not this kernel's
};

inline constexpr int kPrefillWarps = 4;
inline constexpr int kPrefillQueries = 16 * kPrefillWarps;
inline constexpr int kPrefillThreads = kPrefillWarps * kWarpSize;

template <typename Kv, int kHeadDim>
using PrefillRing = TileRing<Kv, kHeadDim, kPrefillWarps>;

template <typename Kv, int kHeadDim>
inline constexpr std::size_t kPrefillSharedBytes =
    PrefillRing<Kv, kHeadDim>::kSharedBytes + kPrefillWarps * WarpRows<kHeadDim>::kSharedBytes;

// Grid: at least as many tiles of 64 queries as there can be, H.
template <typename Kv, int kHeadDim>
__global__ void __launch_bounds__(kPrefillThreads) attention_prefill(const PrefillParams p) {
  // Last tiles first: in a causal sequence they are the longest.
  const int tile_idx = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const QueryTile found = find_query_tile(p.op, tile_idx, kPrefillQueries, p.max_decode_queries);
  if (found.sequence < 0) return;
  const Sequence sequence = sequence_of(p.op, found.sequence);
  const int head = static_cast<int>(blockIdx.y);
  const int head_dim = static_cast<int>(p.op.head_dim);
  const int kv_head = head / static_cast<int>(p.op.num_heads / p.op.num_kv_heads);

  // Of this block, of this warp.
  const int end_query = min(found.first_query + kPrefillQueries, sequence.num_queries);
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int first_query = found.first_query + warp * 16;
  const int num_rows = max(min(end_query - first_query, 16), 0);

  const auto offset_of = [&](int row) {
    const std::int64_t token = sequence.start + first_query + row;
    return (token * p.op.num_heads + head) * p.op.head_dim;
  };
  auto* const out = static_cast<BFloat16*>(p.op.out);
  const int first_row = lane_index() / 4;
  SoftmaxState<kHeadDim> total;
  total.clear();
  if (sequence.is_valid) {
    const BlockPattern pattern(p.op.block_sparse);
    const auto view_of = [&](int query) {
      return row_view(p.op, pattern, sequence.end_of(query), head);
    };
    const WarpRows<kHeadDim> rows(
        pattern,
        num_rows,
        head_dim,
        [&](int row) { return view_of(first_query + row); },
        [&](int row) { return static_cast<const BFloat16*>(p.op.q) + offset_of(row); },
        reinterpret_cast<BFloat16*>(shared_memory() + PrefillRing<Kv, kHeadDim>::kSharedBytes +
                                    warp * WarpRows<kHeadDim>::kSharedBytes));
    const KeyView keys(pattern, view_of(found.first_query), view_of(end_query - 1), head, 1);
    const int end_tile = keys.end_tile();
    KeyTile tile = keys.next(keys.begin_tile(), end_tile);
    PrefillRing<Kv, kHeadDim> ring(p.op, keys, found.sequence, kv_head, tile);
    while (tile.idx < end_tile) {
      SoftmaxState<kHeadDim> span;
      tile = attend_span(ring, keys, tile, end_tile, rows, p.scale, span);
      merge(total, span);
    }
  }
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + 8 * half;
    if (row < num_rows) store_row(total, half, head_dim, out + offset_of(row));
  }
}

}  // namespace phi3::cuda
