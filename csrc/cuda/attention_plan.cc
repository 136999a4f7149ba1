#include "cuda/attention_plan.h"

#include <limits>

#include "core/check.h"

namespace phi3::cuda {
namespace {

constexpr std::int64_t kSpanKeys = 256;
constexpr std::int64_t kTileRows = 16;
constexpr std::int64_t kCounterBytes = AttentionPlan::kNumCounters * 4;
// Enough for some waves of any device; beyond, blocks without work would cost more than waves that
// are not full.
constexpr std::int64_t kEnoughBlocks = 8192;

std::int64_t spans_of(std::int64_t table_len) {
  return (table_len * kPageSize + kSpanKeys - 1) / kSpanKeys;
}

// Max, sum and output of the spans of one query.
std::int64_t query_bytes(std::int64_t num_heads, std::int64_t head_dim, std::int64_t spans) {
  return num_heads * spans * (2 + head_dim) * 4;
}

}  // namespace

std::int64_t AttentionPlan::workspace_bytes(std::int64_t num_tokens,
                                            std::int64_t num_heads,
                                            std::int64_t head_dim,
                                            std::int64_t table_len) {
  return kCounterBytes + num_tokens * query_bytes(num_heads, head_dim, spans_of(table_len));
}

AttentionPlan::AttentionPlan(const AttentionParams& params)
    : num_tokens_(params.num_tokens),
      num_sequences_(params.num_sequences),
      num_kv_heads_(params.num_kv_heads),
      row_spans_(std::max<std::int64_t>(spans_of(params.table_len), 1)) {
  PHI3_CHECK(num_kv_heads_ <= kNumCounters,
             "attention: kv heads (K) are ",
             num_kv_heads_,
             ", expected at most ",
             kNumCounters);
  const std::int64_t group = params.num_heads / params.num_kv_heads;
  max_decode_queries_ = has_prefill()
                            ? static_cast<int>(std::max<std::int64_t>(kTileRows / group, 1))
                            : std::numeric_limits<int>::max();
  if (params.window > 0) {  // any `window` keys in a row
    row_spans_ = std::min(row_spans_, (params.window + kSpanKeys - 2) / kSpanKeys + 1);
  }

  sequences_at_once_ = kNumCounters / num_kv_heads_;
  queries_at_once_ = std::max<std::int64_t>(num_tokens_, 1);
  if (row_spans_ > 1) {
    const std::int64_t bytes = query_bytes(params.num_heads, params.head_dim, row_spans_);
    PHI3_CHECK(params.workspace.num_bytes >= kCounterBytes + bytes,
               "attention: workspace has ",
               params.workspace.num_bytes,
               " bytes, expected at least ",
               kCounterBytes + bytes);
    queries_at_once_ = (params.workspace.num_bytes - kCounterBytes) / bytes;
    if (has_prefill()) {
      sequences_at_once_ =
          std::clamp<std::int64_t>(queries_at_once_ / max_decode_queries_, 1, sequences_at_once_);
    }
  }
  queries_of_range_ = std::min(queries_at_once_, std::int64_t{max_decode_queries_});
}

std::int64_t AttentionPlan::max_prefill_tiles(std::int64_t tile_queries) const {
  if (!has_prefill()) return 0;
  const std::int64_t sequences = std::min(num_sequences_, num_tokens_ / (max_decode_queries_ + 1));
  return num_tokens_ / tile_queries + sequences;
}

std::int64_t AttentionPlan::decode_blocks(const DecodeRange& range) const {
  const std::int64_t blocks = kEnoughBlocks / (range.num_sequences * num_kv_heads_);
  return std::clamp<std::int64_t>(blocks, 1, row_spans_);
}

}  // namespace phi3::cuda
