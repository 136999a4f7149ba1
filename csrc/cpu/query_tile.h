// What attention tiles share: a few query rows, the pages of one span of keys, and the steps from
// scores to merged outputs. Which keys the rows see is the business of DenseTile and SparseTile.
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
 protected:
  QueryTile(const Kernels& isa,
            const AttentionParams& params,
            std::int64_t sequence,
            std::int64_t kv_head)
      : isa_(isa),
        params_(params),
        gemm_(kernel_for(params.kv_dtype, isa.gemm_f32, isa.gemm_bf16, isa.gemm_int8)),
        values_(kernel_for(params.kv_dtype, isa.values_f32, isa.values_bf16, isa.values_int8)),
        pages_(params.block_tables + sequence * params.block_table_stride),
        kv_head_(kv_head),
        group_(params.num_heads / params.num_kv_heads),
        query_start_(params.query_starts[sequence]),
        num_queries_(params.query_starts[sequence + 1] - query_start_),
        past_(params.context_lens[sequence] - num_queries_) {}

  // The next row: a query of this call, and a head of the group.
  void add_row(std::int64_t query, std::int64_t head) {
    const int r = num_rows_++;
    q_offsets_[r] =
        ((query_start_ + query) * params_.num_heads + kv_head_ * group_ + head) * params_.head_dim;
    ends_[r] = past_ + query + 1;
    has_span_[r] = false;
    set_query(r);
  }

  bool is_int8() const { return params_.kv_dtype == DType::kInt8; }

  const void* page_of(const void* pages, std::int64_t block) const {
    return offset(pages, params_.kv_dtype, head_of(block) * kPageSize * params_.head_dim);
  }

  // Entry `page` of the current span is entry `block` of the block table.
  void set_page(int page, std::int64_t block) {
    k_pages_[page] = page_of(params_.k_pages, block);
    v_pages_[page] = page_of(params_.v_pages, block);
    if (!is_int8()) return;
    k_scales_[page] = params_.k_scales + head_of(block) * kPageSize;
    v_scales_[page] = params_.v_scales + head_of(block) * kPageSize;
    __builtin_prefetch(k_scales_[page]);
    __builtin_prefetch(v_scales_[page]);
  }

  // Raw scores of rows [row, row_end) with pages [page, end_page).
  void score(int row, int row_end, int page, int end_page) {
    GemmTile tile{};
    tile.num_rows = row_end - row;
    tile.k = params_.head_dim;
    tile.out_stride = kSpanKeys;
    for (int r = row; r < row_end; ++r) {
      tile.x[r - row] = queries_[r];
    }
    for (; page < end_page; page += tile.num_panels) {
      tile.num_panels = std::min(kTilePanels, end_page - page);
      std::copy_n(k_pages_ + page, tile.num_panels, tile.panels);
      std::copy_n(k_prefetch_ + page, tile.num_panels, tile.prefetch);
      tile.out = scores_[row] + page * kLanes;
      gemm_(tile);
    }
  }

  // Scores into weights, for keys [lo, hi) of the span.
  void soften(int r, int lo, int hi) {
    isa_.softmax_span(scores_[r], lo, hi, params_.scale, &span_max_[r], &span_sum_[r]);
    std::memset(span_output_[r], 0, sizeof span_output_[r]);
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

  void store_rows() {
    const auto store = params_.dtype == DType::kBFloat16 ? isa_.scale_to_bf16 : isa_.scale_to_f32;
    for (int r = 0; r < num_rows_; ++r) {
      store(output_[r],
            1.0F / sums_[r],
            offset(params_.out, params_.dtype, q_offsets_[r]),
            params_.head_dim);
    }
  }

  const Kernels& isa_;
  const AttentionParams& params_;
  void (*gemm_)(const GemmTile&);
  void (*values_)(const ValueTile&);
  const std::int32_t* pages_;  // of this sequence
  std::int64_t kv_head_;
  std::int64_t group_;        // query heads of a kv head
  std::int64_t query_start_;  // of this sequence in q
  std::int64_t num_queries_;  // of this sequence
  std::int64_t past_;         // keys before them
  int num_rows_ = 0;
  std::int64_t ends_[kQueryRows];  // keys from here on are not visible

  // Of the current span.
  const void* k_pages_[kSpanPages];
  const void* v_pages_[kSpanPages];
  const void* k_prefetch_[kSpanPages];
  const void* v_prefetch_[kSpanPages];
  const float* k_scales_[kSpanPages];  // of int8 pages, as v_scales_
  const float* v_scales_[kSpanPages];
  alignas(64) float scores_[kQueryRows][kSpanKeys];

 private:
  // Int8 keys meet float32 queries.
  void set_query(int r) {
    queries_[r] = offset(params_.q, params_.dtype, q_offsets_[r]);
    if (!is_int8() || params_.dtype == DType::kFloat32) return;
    const auto* query = static_cast<const BFloat16*>(queries_[r]);
    for (std::int64_t d = 0; d < params_.head_dim; ++d) wide_queries_[r][d] = to_float(query[d]);
    queries_[r] = wide_queries_[r];
  }

  std::int64_t head_of(std::int64_t block) const {
    return std::int64_t{pages_[block]} * params_.num_kv_heads + kv_head_;
  }

  std::int64_t q_offsets_[kQueryRows];  // of the row's head in q and out
  const void* queries_[kQueryRows];     // the row's head in q, or in wide_queries_
  bool has_span_[kQueryRows];
  float maxima_[kQueryRows];
  float sums_[kQueryRows];
  float span_max_[kQueryRows];
  float span_sum_[kQueryRows];
  alignas(64) float span_output_[kQueryRows][kMaxHeadDim];
  alignas(64) float output_[kQueryRows][kMaxHeadDim];
  alignas(64) float wide_queries_[kQueryRows][kMaxHeadDim];
};

}  // namespace phi3::cpu
