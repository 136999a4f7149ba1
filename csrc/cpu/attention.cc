// Paged attention. Keys are reduced in spans of 256 aligned at absolute key indices and the spans
// are merged in index order, so a query's bits depend on itself, the keys it sees and its position:
// not on the chunk it came in, its neighbours or the page ids.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "cpu/parallel.h"

namespace phi3::cpu {
namespace {

constexpr int kSpanKeys = 256;
constexpr int kSpanPages = kSpanKeys / kPageSize;
constexpr int kQueryRows =
    24;  // rows of a tile: (query, head of the group) pairs that share a kv head

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

// The rows of one task and their running softmax state.
class QueryTile {
 public:
  QueryTile(const Kernels& isa,
            const AttentionParams& params,
            std::int64_t sequence,
            std::int64_t kv_head,
            std::int64_t tile)
      : isa_(isa),
        params_(params),
        gemm_(params.dtype == DType::kBFloat16 ? isa.gemm_bf16 : isa.gemm_f32),
        values_(params.dtype == DType::kBFloat16 ? isa.values_bf16 : isa.values_f32),
        pages_(params.block_tables + sequence * params.block_table_stride),
        kv_head_(kv_head) {
    const std::int64_t group = params.num_heads / params.num_kv_heads;
    const std::int64_t query_start = params.query_starts[sequence];
    const std::int64_t q_len = params.query_starts[sequence + 1] - query_start;
    const std::int64_t begin = tile * kQueryRows;
    num_rows_ = static_cast<int>(std::min<std::int64_t>(kQueryRows, q_len * group - begin));
    for (int r = 0; r < num_rows_; ++r) {
      const std::int64_t query = (begin + r) / group;
      const std::int64_t head = kv_head * group + (begin + r) % group;
      q_offsets_[r] = ((query_start + query) * params.num_heads + head) * params.head_dim;
      ends_[r] = params.context_lens[sequence] - q_len + query + 1;
      firsts_[r] = params.window > 0 ? std::max<std::int64_t>(0, ends_[r] - params.window) : 0;
      has_span_[r] = false;
    }
  }

  void run() {
    // Both ends of what a row sees grow with the row.
    for (std::int64_t span = firsts_[0] / kSpanKeys; span * kSpanKeys < ends_[num_rows_ - 1];
         ++span) {
      run_span(span);
    }
    const auto store = params_.dtype == DType::kBFloat16 ? isa_.scale_to_bf16 : isa_.scale_to_f32;
    for (int r = 0; r < num_rows_; ++r) {
      store(output_[r],
            1.0F / sums_[r],
            offset(params_.out, params_.dtype, q_offsets_[r]),
            params_.head_dim);
    }
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
    for (int page = first_page; page < end_page; ++page) {
      k_pages_[page] = page_of(params_.k_pages, base / kPageSize + page);
      v_pages_[page] = page_of(params_.v_pages, base / kPageSize + page);
    }
    set_prefetch(base, first_page, end_page);
    const int num_blocks = static_cast<int>(ceil_div(end - begin, isa_.tile_rows));
    for (int block = 0; block < num_blocks; ++block) {
      const int row = begin + static_cast<int>(even_part(end - begin, num_blocks, block));
      const int row_end = begin + static_cast<int>(even_part(end - begin, num_blocks, block + 1));
      score(row, row_end);
      for (int r = row; r < row_end; ++r) {
        isa_.softmax_span(scores_[r], lo_[r], hi_[r], params_.scale, &span_max_[r], &span_sum_[r]);
        std::memset(span_output_[r], 0, sizeof span_output_[r]);
      }
      weigh_values(row, row_end);
      for (int r = row; r < row_end; ++r) merge(r);
    }
  }

  const void* page_of(const void* pages, std::int64_t block) const {
    const std::int64_t at = std::int64_t{pages_[block]} * params_.num_kv_heads + kv_head_;
    return offset(pages, params_.dtype, at * kPageSize * params_.head_dim);
  }

  // A decode reads each page once and computes little on it, so each fetches one that comes later:
  // keys, then values, then the keys of the next span.
  void set_prefetch(std::int64_t base, int first_page, int end_page) {
    for (int page = first_page; page < end_page; ++page) {
      const int after_end = page + kTilePanels - end_page;
      k_prefetch_[page] = after_end < 0 ? k_pages_[page + kTilePanels]
                                        : v_pages_[std::min(first_page + after_end, end_page - 1)];
      const std::int64_t next_key_page = base / kPageSize + kSpanPages + after_end;
      v_prefetch_[page] = after_end < 0 ? v_pages_[page + kTilePanels]
                          : next_key_page * kPageSize < ends_[num_rows_ - 1]
                              ? page_of(params_.k_pages, next_key_page)
                              : nullptr;
    }
  }

  // Raw scores of rows [row, row_end) with every page that one of them sees.
  void score(int row, int row_end) {
    GemmTile tile{};
    tile.num_rows = row_end - row;
    tile.k = params_.head_dim;
    tile.out_stride = kSpanKeys;
    for (int r = row; r < row_end; ++r) {
      tile.x[r - row] = offset(params_.q, params_.dtype, q_offsets_[r]);
    }
    const int end_page = (hi_[row_end - 1] + kLanes - 1) / kLanes;
    for (int page = lo_[row] / kLanes; page < end_page; page += tile.num_panels) {
      tile.num_panels = std::min(kTilePanels, end_page - page);
      std::copy_n(k_pages_ + page, tile.num_panels, tile.panels);
      std::copy_n(k_prefetch_ + page, tile.num_panels, tile.prefetch);
      tile.out = scores_[row] + page * kLanes;
      gemm_(tile);
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

  void add_values(int row, int row_end, int first, int last) {
    if (first >= last) return;
    ValueTile tile{};
    for (int r = row; r < row_end; ++r) tile.p[r - row] = scores_[r];
    tile.v_pages = v_pages_;
    tile.prefetch = v_prefetch_;
    tile.num_rows = row_end - row;
    tile.first = first;
    tile.last = last;
    tile.head_dim = static_cast<int>(params_.head_dim);
    tile.out = span_output_[row];
    tile.out_stride = kMaxHeadDim;
    values_(tile);
  }

  void merge(int r) {
    if (!has_span_[r]) {
      has_span_[r] = true;
      maxima_[r] = span_max_[r];
      sums_[r] = span_sum_[r];
      std::memcpy(
          output_[r], span_output_[r], static_cast<std::size_t>(params_.head_dim) * sizeof(float));
      return;
    }
    const float max = std::max(maxima_[r], span_max_[r]);
    const float old_factor = isa_.exp(maxima_[r] - max);
    const float span_factor = isa_.exp(span_max_[r] - max);
    maxima_[r] = max;
    sums_[r] = sums_[r] * old_factor + span_sum_[r] * span_factor;
    isa_.merge(output_[r], span_output_[r], old_factor, span_factor, params_.head_dim);
  }

  const Kernels& isa_;
  const AttentionParams& params_;
  void (*gemm_)(const GemmTile&);
  void (*values_)(const ValueTile&);
  const std::int32_t* pages_;  // of this sequence
  std::int64_t kv_head_;
  int num_rows_;

  std::int64_t q_offsets_[kQueryRows];  // of the row's head in q and out
  std::int64_t firsts_[kQueryRows];     // keys [first, end) are visible
  std::int64_t ends_[kQueryRows];
  bool has_span_[kQueryRows];
  float maxima_[kQueryRows];
  float sums_[kQueryRows];

  // Of the current span.
  int lo_[kQueryRows];
  int hi_[kQueryRows];
  float span_max_[kQueryRows];
  float span_sum_[kQueryRows];
  const void* k_pages_[kSpanPages];
  const void* v_pages_[kSpanPages];
  const void* k_prefetch_[kSpanPages];
  const void* v_prefetch_[kSpanPages];
  alignas(64) float scores_[kQueryRows][kSpanKeys];
  alignas(64) float span_output_[kQueryRows][kMaxHeadDim];
  alignas(64) float output_[kQueryRows][kMaxHeadDim];
};

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
