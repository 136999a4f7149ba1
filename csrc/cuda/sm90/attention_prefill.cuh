// Attention of many queries on Hopper: a block has 128 of one sequence and head, 64 to a consumer
// warpgroup, and one producer warpgroup (Shah et al. 2024, FlashAttention-3). While one consumer's
// products are under way the other has its softmax.
#pragma once

#include <cstdint>

#include "core/params.h"
#include "cuda/attention_merge.cuh"
#include "cuda/attention_prefill.cuh"
#include "cuda/attention_tile.cuh"
#include "cuda/attention_view.cuh"
#include "cuda/ptx.h"
#include "cuda/sm90/kv_producer.cuh"
#include "cuda/sm90/kv_ring.cuh"
#include "cuda/sm90/shared_total.cuh"
#include "cuda/sm90/special_values.cuh"
#include "cuda/sm90/turns.cuh"
#include "cuda/sm90/warpgroup.h"
#include "cuda/sm90/warpgroup_rows.cuh"
#include "cuda/sm90/wgmma.h"

namespace phi3::cuda::sm90 {

inline constexpr int kNumConsumers = 2;
inline constexpr int kBlockQueries = kNumConsumers * kWarpgroupQueries;
inline constexpr int kConsumerWarps = kNumConsumers * kWarpgroupSize / kWarpSize;
inline constexpr int kBlockThreads = (kNumConsumers + 1) * kWarpgroupSize;
// A block of this size may have 168 a thread. The consumers, with queries, scores and outputs in
// theirs, need more, which the producer gives up.
inline constexpr int kProducerRegisters = 72;
inline constexpr int kConsumerRegisters = 216;

template <int kHeadDim>
using Total = SharedTotal<kHeadDim, kNumConsumers * kWarpgroupSize>;

template <typename Kv, int kHeadDim>
struct PrefillShared {
  KvRing<Kv, kHeadDim> ring;
  Turns turns;
  alignas(16) typename Total<kHeadDim>::Outs totals;
};

// Begins scores = Q · Kᵀ.
template <typename Ring, int kHeadDim>
PHI3_DEVICE void begin_scores(const WarpgroupRows<kHeadDim>& rows,
                              const typename Ring::Stage& stage,
                              TileScores& scores) {
  const std::uint32_t keys = shared_address(stage.keys);
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    wgmma_k16<false>(scores, rows.query(step), Ring::Tile::over_columns(keys, step * 16), step > 0);
  }
  wgmma_commit();
}

// Begins out += weights · V.
template <typename Ring, int kHeadDim>
PHI3_DEVICE void begin_weighing(const TileWeights& weights,
                                const typename Ring::Stage& stage,
                                SoftmaxState<kHeadDim>& state) {
  const std::uint32_t values = shared_address(stage.values);
#pragma unroll
  for (int step = 0; step < kTileKeys / 16; ++step) {
    wgmma_k16<true>(state.out, weights[step], Ring::Tile::over_rows(values, step * 16), true);
  }
  wgmma_commit();
}

// A consumer's share of a block: all tiles of the ring, of which its rows may see a part. `span`
// becomes the total. For every tile and once more at the end it has a turn, in which it begins to
// weigh the values of the tile before and to score the keys of this one.
template <typename Kv, int kHeadDim>
PHI3_DEVICE void attend(KvRing<Kv, kHeadDim>& ring,
                        Turns& turns,
                        int warpgroup,
                        const KeyView& keys,
                        const WarpgroupRows<kHeadDim>& rows,
                        const PagedValues<Kv, kHeadDim>& paged_values,
                        float scale,
                        Total<kHeadDim>& total,
                        SoftmaxState<kHeadDim>& span) {
  using Ring = KvRing<Kv, kHeadDim>;
  const int end = keys.end_tile();
  int number = 0;  // of the tile in the ring
  KeyTile tile = keys.next(keys.begin_tile(), end);
  const auto skip = [&](int turn) {
    turns.wait(warpgroup, turn);
    turns.pass(warpgroup);
    ring.wait_for(number);
    ring.let_go(number++);
    tile = keys.next(tile.idx + 1, end);
  };
  while (tile.idx < end && rows.are_behind(tile.idx)) skip(number);

  TileScores scores;
  TileWeights weights;
  span.clear();
  // What is left to do with a tile once its values are weighed; `next` is the one after it. Returns
  // whether that is of another span.
  const auto conclude = [&](int last, int next) {
    if (ring.is_special(number - 1)) paged_values.weigh_specials(weights, rows.view(last), span);
    ring.let_go(number - 1);
    const bool is_whole = next / kSpanTiles != last / kSpanTiles;
    if (is_whole) {
      finish_sums(span);
      total.merge(span);
    }
    return is_whole;
  };
  int last = -1;
  turns.wait(warpgroup, number);
  for (; tile.idx < end && !rows.are_before(tile.idx); tile = keys.next(tile.idx + 1, end)) {
    ring.wait_for(number);
    wgmma_fence(scores);
    begin_scores<Ring>(rows, ring.stage(number), scores);
    turns.pass(warpgroup);
    wgmma_wait<0>(span.out, scores);
    if (last >= 0 && conclude(last, tile.idx)) span.clear();
    scale_scores(scores, scale);
    if (!rows.see_all(tile.idx)) hide_unseen(scores, rows.view(tile.idx));
    soften(scores, span, weights);
    turns.wait(warpgroup, number + 1);
    wgmma_fence(span.out, weights);
    begin_weighing<Ring>(weights, ring.stage(number), span);
    last = tile.idx;
    ++number;
  }
  turns.pass(warpgroup);
  wgmma_wait<0>(span.out);
  if (last >= 0) conclude(last, last + kSpanTiles);
  while (tile.idx < end) skip(number + 1);
}

// Grid: at least as many tiles of 128 queries as there can be, H.
template <typename Kv, int kHeadDim>
__global__ void __launch_bounds__(kBlockThreads, 1) attention_prefill_wgmma(const PrefillParams p) {
  auto& shared = *reinterpret_cast<PrefillShared<Kv, kHeadDim>*>(shared_memory());
  // Last tiles first: in a causal sequence they are the longest.
  const int tile_idx = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const QueryTile found = find_query_tile(p.op, tile_idx, kBlockQueries, p.max_decode_queries);
  if (found.sequence < 0) return;
  const Sequence sequence = sequence_of(p.op, found.sequence);
  const int head = static_cast<int>(blockIdx.y);
  const int kv_head = head / static_cast<int>(p.op.num_heads / p.op.num_kv_heads);
  const BlockPattern pattern(p.op.block_sparse);
  const int end_query = min(found.first_query + kBlockQueries, sequence.num_queries);
  const auto view_of = [&](int query) {
    return row_view(p.op, pattern, sequence.end_of(query), head);
  };
  const KeyView keys(pattern, view_of(found.first_query), view_of(end_query - 1), head, 1);

  if (threadIdx.x == 0) {
    shared.ring.init(kConsumerWarps);
    shared.turns.init();
  }
  __syncthreads();
  const int warpgroup = static_cast<int>(threadIdx.x) / kWarpgroupSize;
  if (warpgroup == kNumConsumers) {
    shrink_registers<kProducerRegisters>();
    if (sequence.is_valid) {
      KvProducer<Kv, kHeadDim>(p.op, keys, found.sequence, kv_head, shared.ring).run();
    }
    return;
  }
  grow_registers<kConsumerRegisters>();
  const int first_query = found.first_query + warpgroup * kWarpgroupQueries;
  const auto offset_of = [&](int query) {
    return ((std::int64_t{sequence.start} + query) * p.op.num_heads + head) * kHeadDim;
  };
  SoftmaxState<kHeadDim> state;
  state.clear();
  if (sequence.is_valid) {
    const WarpgroupRows<kHeadDim> rows(pattern, first_query, end_query, view_of, [&](int query) {
      return static_cast<const BFloat16*>(p.op.q) + offset_of(query);
    });
    const PagedValues<Kv, kHeadDim> paged_values(p.op, found.sequence, kv_head);
    Total<kHeadDim> total(shared.totals, static_cast<int>(threadIdx.x));
    attend(shared.ring, shared.turns, warpgroup, keys, rows, paged_values, p.scale, total, state);
  }
  for (int half = 0; half < 2; ++half) {
    const int query = first_query + WarpgroupRows<kHeadDim>::row(half);
    if (query < end_query) {
      store_row(state, half, kHeadDim, static_cast<BFloat16*>(p.op.out) + offset_of(query));
    }
  }
}

}  // namespace phi3::cuda::sm90
