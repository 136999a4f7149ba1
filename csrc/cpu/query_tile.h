// Attention of a few query rows over all the keys that they see, one span after the other.
#pragma once

#include <algorithm>
#include <cstring>

#include "core/params.h"
#include "cpu/gemm.h"
#include "cpu/isa.h"

namespace phi3::cpu {

inline constexpr int kSpanKeys = 256;
inline constexpr int kSpanPages = kSpanKeys / kPageSize;
inline constexpr int kQueryRows =
    24;  // rows of a tile: (query, head of the group) pairs that share a kv head

// The kernel for pages of `dtype`.
template <typename Kernel>
Kernel* kernel_for(DType dtype, Kernel* f32, Kernel* bf16, Kernel* int8) {
  return dtype == DType::kInt8 ? int8 : dtype == DType::kBFloat16 ? bf16 : f32;
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
        gemm_(kernel_for(params.kv_dtype, isa.gemm_f32, isa.gemm_bf16, isa.gemm_int8)),
        values_(kernel_for(params.kv_dtype, isa.values_f32, isa.values_bf16, isa.values_int8)),
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
      set_query(r);
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
  // Int8 keys meet float32 queries.
  void set_query(int r) {
    queries_[r] = offset(params_.q, params_.dtype, q_offsets_[r]);
    if (params_.kv_dtype != DType::kInt8 || params_.dtype == DType::kFloat32) return;
    const auto* query = static_cast<const BFloat16*>(queries_[r]);
    for (std::int64_t d = 0; d < params_.head_dim; ++d) wide_queries_[r][d] = to_float(query[d]);
    queries_[r] = wide_queries_[r];
  }

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
      if (params_.kv_dtype == DType::kInt8) set_scales(page, base / kPageSize + page);
    }
    set_prefetch(base, first_page, end_page);
    const int num_blocks = static_cast<int>(ceil_div(end - begin, isa_.tile_rows));
    for (int block = 0; block < num_blocks; ++block) {
      const int row = begin + static_cast<int>(even_part(end - begin, num_blocks, block));
      const int row_end = begin + static_cast<int>(even_part(end - begin, num_blocks, block + 1));
      score(row, row_end);
      const bool is_scaled = params_.kv_dtype == DType::kInt8;
      for (int r = row; r < row_end; ++r) {
        if (is_scaled) isa_.scale_keys(scores_[r], k_scales_, lo_[r], hi_[r]);
        isa_.softmax_span(scores_[r], lo_[r], hi_[r], params_.scale, &span_max_[r], &span_sum_[r]);
        if (is_scaled) isa_.scale_keys(scores_[r], v_scales_, lo_[r], hi_[r]);
        std::memset(span_output_[r], 0, sizeof span_output_[r]);
      }
      weigh_values(row, row_end);
      for (int r = row; r < row_end; ++r) merge(r);
    }
  }

  std::int64_t head_of(std::int64_t block) const {
    return std::int64_t{pages_[block]} * params_.num_kv_heads + kv_head_;
  }

  const void* page_of(const void* pages, std::int64_t block) const {
    return offset(pages, params_.kv_dtype, head_of(block) * kPageSize * params_.head_dim);
  }

  void set_scales(int page, std::int64_t block) {
    k_scales_[page] = params_.k_scales + head_of(block) * kPageSize;
    v_scales_[page] = params_.v_scales + head_of(block) * kPageSize;
    __builtin_prefetch(k_scales_[page]);
    __builtin_prefetch(v_scales_[page]);
  }

  // A decode reads each page once and computes little on it, so each fetches one that comes later:
  // keys, then values, then the keys of the next span.
  void set_prefetch(std::int64_t base, int first_page, int end_page) {
    // An int8 page is over sooner, so it is asked for earlier: by as many pages as the span reads.
    const int ahead = params_.kv_dtype == DType::kInt8 ? end_page - first_page : kTilePanels;
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

  // Raw scores of rows [row, row_end) with every page that one of them sees.
  void score(int row, int row_end) {
    GemmTile tile{};
    tile.num_rows = row_end - row;
    tile.k = params_.head_dim;
    tile.out_stride = kSpanKeys;
    for (int r = row; r < row_end; ++r) {
      tile.x[r - row] = queries_[r];
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
  const void* queries_[kQueryRows];     // the row's head in q, or in wide_queries_
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
  const float* k_scales_[kSpanPages];  // of int8 pages, as v_scales_
  const float* v_scales_[kSpanPages];
  alignas(64) float scores_[kQueryRows][kSpanKeys];
  alignas(64) float span_output_[kQueryRows][kMaxHeadDim];
  alignas(64) float output_[kQueryRows][kMaxHeadDim];
  alignas(64) float wide_queries_[kQueryRows][kMaxHeadDim];
};

}  // namespace phi3::cpu
