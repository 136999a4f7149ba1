// Paged attention. Keys are reduced in spans of 256 aligned at absolute key indices and the spans
// are merged in index order, so a query's bits depend on itself, the keys it sees and its position:
// not on the chunk it came in, its neighbours or the page ids.
#include <algorithm>
#include <vector>

#include "core/check.h"
#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "cpu/parallel.h"
#include "cpu/query_tile.h"

namespace phi3::cpu {
namespace {

void check_indices(const AttentionParams& params) {
  const std::int32_t* starts = params.query_starts;
  PHI3_CHECK(starts[0] == 0, "attention: query_starts[0] is ", starts[0], ", expected 0");
  for (std::int64_t b = 0; b < params.num_sequences; ++b) {
    const std::int64_t q_len = std::int64_t{starts[b + 1]} - starts[b];
    const std::int64_t context_len = params.context_lens[b];
    PHI3_CHECK(q_len >= 0,
               "attention: query_starts[",
               b + 1,
               "] is ",
               starts[b + 1],
               ", expected at least ",
               starts[b]);
    if (q_len == 0) continue;
    PHI3_CHECK(context_len >= q_len,
               "attention: context_lens[",
               b,
               "] is ",
               context_len,
               ", expected at least its ",
               q_len,
               " queries");
    PHI3_CHECK(ceil_div(context_len, kPageSize) <= params.max_blocks,
               "attention: context_lens[",
               b,
               "] is ",
               context_len,
               ", more than its ",
               params.max_blocks,
               " pages hold");
    const std::int64_t first_end =
        context_len - q_len + 1;  // keys before the end of the first query's view
    const std::int64_t first_key =
        params.window > 0 ? std::max<std::int64_t>(0, first_end - params.window) : 0;
    const std::int32_t* pages = params.block_tables + b * params.block_table_stride;
    for (std::int64_t m = first_key / kPageSize; m * kPageSize < context_len; ++m) {
      PHI3_CHECK(pages[m] >= 0 && pages[m] < params.num_pages,
                 "attention: block_tables[",
                 b,
                 ", ",
                 m,
                 "] is ",
                 pages[m],
                 ", expected 0..",
                 params.num_pages - 1);
    }
  }
  const std::int32_t end = starts[params.num_sequences];
  PHI3_CHECK(end == params.num_tokens,
             "attention: query_starts[",
             params.num_sequences,
             "] is ",
             end,
             ", expected ",
             params.num_tokens,
             " (T)");
}

}  // namespace

void attention(const AttentionParams& params) {
  check_indices(params);
  const Kernels& isa = kernels();
  const std::int64_t group = params.num_heads / params.num_kv_heads;

  // tile_ends[b]: tiles of one kv head in sequences 0..b. Kept between calls, so that a step
  // allocates nothing.
  thread_local std::vector<std::int64_t> tile_ends;
  tile_ends.clear();
  std::int64_t num_tiles = 0;
  std::int64_t num_scores = 0;
  for (std::int64_t b = 0; b < params.num_sequences; ++b) {
    const std::int64_t q_len = params.query_starts[b + 1] - params.query_starts[b];
    num_tiles += ceil_div(q_len * group, kQueryRows);
    num_scores += q_len * group * params.context_lens[b];
    tile_ends.push_back(num_tiles);
  }
  if (num_tiles == 0) return;
  const std::int64_t cost = num_scores * params.head_dim * 2 / num_tiles;
  const std::vector<std::int64_t>& ends = tile_ends;  // the workers' own thread_local is another
  parallel_for(num_tiles * params.num_kv_heads, tasks_worth_a_thread(cost), [&](std::int64_t task) {
    // Tiles are the inner index: neighbours in time read the same keys.
    const std::int64_t tile = task % num_tiles;
    const auto end = std::upper_bound(ends.begin(), ends.end(), tile);
    const std::int64_t sequence = end - ends.begin();
    const std::int64_t first_tile = sequence > 0 ? ends[static_cast<std::size_t>(sequence - 1)] : 0;
    QueryTile(isa, params, sequence, task / num_tiles, tile - first_tile).run();
  });
}

}  // namespace phi3::cpu
