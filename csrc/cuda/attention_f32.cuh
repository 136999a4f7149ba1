// Attention of float32 models: a warp has one query and head, and goes through its spans.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/params.h"
#include "cuda/attention_keys.cuh"
#include "cuda/attention_merge.cuh"
#include "cuda/attention_view.cuh"
#include "cuda/ptx.h"

namespace phi3::cuda {

struct AttentionF32Params {
  AttentionParams op;
  float scale;  // of scores, to units of log2
};

inline constexpr std::size_t kAttentionF32SharedBytes = kSpanKeys * sizeof(float);

// The last sequence that begins at or before the token.
PHI3_DEVICE int find_sequence(const AttentionParams& p, int token) {
  int low = 0;
  int high = static_cast<int>(p.num_sequences) - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (p.query_starts[middle] <= token) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

PHI3_DEVICE float warp_max(float value) {
  for (int step = 1; step < kWarpSize; step *= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
  }
  return value;
}

PHI3_DEVICE float warp_sum(float value) {
  for (int step = 1; step < kWarpSize; step *= 2) {
    value += __shfl_xor_sync(kAllLanes, value, step);
  }
  return value;
}

// A row of one query and head; this thread holds dims `lane`, `lane` + 32, …
template <typename Kv>
class F32Row {
 public:
  PHI3_DEVICE F32Row(const AttentionF32Params& p, int sequence, int kv_head, const RowView& view)
      : p_(p),
        ids_(p.op, sequence),
        pattern_(p.op.block_sparse),
        view_(view),
        head_dim_(static_cast<int>(p.op.head_dim)),
        page_stride_(p.op.num_kv_heads * kPageSize * head_dim_),
        head_offset_(kv_head * kPageSize * head_dim_) {}

  PHI3_DEVICE void attend(const float* query) {
    for (int span = view_.first_span(); span < view_.end_span(); ++span) {
      const RowTotal softened = soften_span(query, span);
      float out[kDims] = {};
      weigh_span(span, out);
      const MergeFactors factors = merge(total_, softened);
      for (int j = 0; j < kDims; ++j) out_[j] = factors.merged(out_[j], out[j]);
    }
  }

  PHI3_DEVICE void store(float* out) const {
    const float inverse_sum = 1.0F / total_.sum;
    for (int j = 0; j < kDims; ++j) {
      const int dim = j * kWarpSize + lane_index();
      if (dim < head_dim_) out[dim] = finished(out_[j], inverse_sum);
    }
  }

 private:
  static constexpr int kPageKeys = static_cast<int>(kPageSize);
  static constexpr int kDims = kMaxCudaHeadDim / kWarpSize;
  static constexpr float kUnseen = -1.0F;  // in place of a weight

  // Null on a page with a bad id. Called by whole warps, for any keys of the span.
  PHI3_DEVICE const Kv* row_of(const void* pages, int span, int idx) {
    const int id = ids_.id_of(span * kSpanTiles, idx / kPageKeys);
    if (id == SpanPages::kBad) return nullptr;
    return static_cast<const Kv*>(pages) + id * page_stride_ + head_offset_ +
           idx % kPageKeys * head_dim_;
  }

  // Leaves the weights of the span's keys in shared memory. A page with a bad id gives NaN.
  PHI3_DEVICE RowTotal soften_span(const float* query, int span) {
    const unsigned pages =
        pattern_.seen_pages(view_.end, span * kSpanPages, kSpanPages, [&](int place) {
          return place == view_.first_vertical;
        });
    float scores[kSpanKeys / kWarpSize];
    bool is_seen[kSpanKeys / kWarpSize];
    float max = negative_infinity();
    for (int i = 0; i < kSpanKeys / kWarpSize; ++i) {
      const int idx = i * kWarpSize + lane_index();
      const int key = span * kSpanKeys + idx;
      const Kv* row = row_of(p_.op.k_pages, span, idx);
      is_seen[i] = key >= view_.begin && key < view_.end && (pages >> (idx / kPageKeys) & 1U) != 0;
      scores[i] = is_seen[i] ? score(query, row) : negative_infinity();
      max = fmaxf(max, scores[i]);
    }
    max = warp_max(max);
    const float base = exponent_base(max);
    float sum = 0.0F;
    __syncwarp();  // the weights of the span before are used
    for (int i = 0; i < kSpanKeys / kWarpSize; ++i) {
      const float weight = exp2_approx(scores[i] - base);
      sum += weight;
      weights()[i * kWarpSize + lane_index()] = is_seen[i] ? weight : kUnseen;
    }
    __syncwarp();
    return {max, warp_sum(sum)};
  }

  PHI3_DEVICE float score(const float* query, const Kv* key) const {
    if (key == nullptr) return __uint_as_float(0x7fc00000U);
    float sum = 0.0F;
    for (int dim = 0; dim < head_dim_; ++dim) sum = fmaf(query[dim], to_float(key[dim]), sum);
    return sum * p_.scale;
  }

  PHI3_DEVICE void weigh_span(int span, float (&out)[kDims]) {
    for (int idx = 0; idx < kSpanKeys; ++idx) {
      const float weight = weights()[idx];
      if (weight == kUnseen) continue;
      const Kv* row = row_of(p_.op.v_pages, span, idx);
      if (row == nullptr) continue;
      for (int j = 0; j < kDims; ++j) {
        const int dim = j * kWarpSize + lane_index();
        if (dim < head_dim_) out[j] = fmaf(weight, to_float(row[dim]), out[j]);
      }
    }
  }

  PHI3_DEVICE static float* weights() { return reinterpret_cast<float*>(shared_memory()); }

  const AttentionF32Params& p_;
  SpanPages ids_;
  BlockPattern pattern_;
  RowView view_;
  int head_dim_;
  std::int64_t page_stride_;
  std::int64_t head_offset_;
  RowTotal total_{negative_infinity(), 0.0F};
  float out_[kDims] = {};
};

// Grid: T, H.
template <typename Kv>
__global__ void __launch_bounds__(kWarpSize) attention_f32(const AttentionF32Params p) {
  const int token = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int idx = find_sequence(p.op, token);
  const Sequence sequence = sequence_of(p.op, idx);
  const int query = token - sequence.start;
  const bool is_valid = sequence.is_valid && query >= 0 && query < sequence.num_queries;
  // A row that sees nothing becomes NaN.
  const RowView view =
      is_valid ? row_view(p.op, BlockPattern(p.op.block_sparse), sequence.end_of(query), head)
               : RowView{};
  const int kv_head = head / static_cast<int>(p.op.num_heads / p.op.num_kv_heads);
  const std::int64_t offset = (token * p.op.num_heads + head) * p.op.head_dim;
  F32Row<Kv> row(p, idx, kv_head, view);
  row.attend(static_cast<const float*>(p.op.q) + offset);
  row.store(static_cast<float*>(p.op.out) + offset);
}

}  // namespace phi3::cuda
