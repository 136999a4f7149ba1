// Paged attention. Keys are reduced in spans of 256 aligned at absolute key indices and the spans
// are merged in index order, so a query's bits depend on itself, the keys it sees and its position:
// not on the chunk it came in, its neighbours or the page ids.
#include <algorithm>
#include <vector>

#include "core/check.h"
#include "cpu/block_pattern.h"
#include "cpu/cpu.h"
#include "cpu/dense_tile.h"
#include "cpu/gemm.h"
#include "cpu/parallel.h"
#include "cpu/sparse_tile.h"

namespace phi3::cpu {
namespace {

// The pages of keys [first, end) of a sequence.
void check_pages(const AttentionParams& params,
                 std::int64_t sequence,
                 std::int64_t first,
                 std::int64_t end) {
  const std::int32_t* pages = params.block_tables + sequence * params.block_table_stride;
  for (std::int64_t m = first / kPageSize; m * kPageSize < end; ++m) {
    PHI3_CHECK(pages[m] >= 0 && pages[m] < params.num_pages,
               "attention: block_tables[",
               sequence,
               ", ",
               m,
               "] is ",
               pages[m],
               ", expected 0..",
               params.num_pages - 1);
  }
}

// The pages that the last `q_len` queries of a sequence see, with any head.
void check_seen_blocks(const AttentionParams& params, std::int64_t sequence, std::int64_t q_len) {
  const BlockSparse& sparse = params.block_sparse;
  const std::int64_t context_len = params.context_lens[sequence];
  const std::int64_t first_query_block = (context_len - q_len) / sparse.block_size;
  const std::int64_t first_local =
      std::max<std::int64_t>(0, first_query_block - sparse.num_local_blocks + 1);
  const std::int64_t local_start = first_local * sparse.block_size;
  const std::int64_t num_patterns = std::min(params.num_heads, BlockPattern::period(sparse));
  for (std::int64_t head = 0; head < num_patterns; ++head) {
    for (std::int64_t block = BlockPattern(sparse, head).first_vertical();
         block * sparse.block_size < local_start;
         block += sparse.vertical_stride) {
      check_pages(params, sequence, block * sparse.block_size, (block + 1) * sparse.block_size);
    }
  }
  check_pages(params, sequence, local_start, context_len);
}

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
    PHI3_CHECK(ceil_div(context_len, kPageSize) <= params.table_len,
               "attention: context_lens[",
               b,
               "] is ",
               context_len,
               ", more than its ",
               params.table_len,
               " pages hold");
    if (params.block_sparse.block_size > 0) {
      check_seen_blocks(params, b, q_len);
    } else {
      const std::int64_t first_end =
          context_len - q_len + 1;  // keys before the end of the first query's view
      const std::int64_t first_key =
          params.window > 0 ? std::max<std::int64_t>(0, first_end - params.window) : 0;
      check_pages(params, b, first_key, context_len);
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

template <typename Tile>
void run_tiles(const AttentionParams& params) {
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
    num_tiles += Tile::count(isa, params, q_len);
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
    Tile(isa, params, sequence, task / num_tiles, tile - first_tile).run();
  });
}

}  // namespace

void attention(const AttentionParams& params) {
  check_indices(params);
  if (params.block_sparse.block_size > 0) {
    run_tiles<SparseTile>(params);
  } else {
    run_tiles<DenseTile>(params);
  }
}

}  // namespace phi3::cpu
