// How attention is cut into launches: includes no CUDA header.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/params.h"

namespace phi3::cuda {

// Queries of one launch of the decode kernel. The workspace holds the spans of as many queries as
// these are: those of every sequence, `by_sequence`, or else those with these tokens.
struct DecodeRange {
  bool by_sequence;
  int first_sequence, num_sequences;
  int first_token, end_token;
  int first_query, end_query;  // of each sequence
};

// Who computes what, of bfloat16 models. The host knows neither lengths nor queries of sequences,
// but for their sum T.
//
// Where T <= B, all is the decode kernel's. Else it has the sequences with few queries: one, or as
// many as fill 16 rows with the heads of a group; the prefill kernel has the others.
//
// A row's spans, if it may have more than one, meet in the workspace: `kNumCounters` counters and
// then, of T · H rows, float32 max, sum and output [D] of every span. A smaller workspace makes
// for more launches.
class AttentionPlan {
 public:
  static constexpr std::int64_t kNumCounters = 16384;

  explicit AttentionPlan(const AttentionParams& params);

  static std::int64_t workspace_bytes(std::int64_t num_tokens,
                                      std::int64_t num_heads,
                                      std::int64_t head_dim,
                                      std::int64_t table_len);

  int max_decode_queries() const { return max_decode_queries_; }
  bool has_prefill() const { return num_tokens_ > num_sequences_; }
  // Tiles of `tile_queries` queries that the prefill kernel's sequences have at most.
  std::int64_t max_prefill_tiles(std::int64_t tile_queries) const;

  std::int64_t row_spans() const { return row_spans_; }  // that a query sees keys of, at most
  std::int64_t queries_at_once() const {
    return queries_at_once_;
  }  // that the workspace has room for
  // Blocks that share the spans of a sequence and kv head.
  std::int64_t decode_blocks(const DecodeRange& range) const;

  // Calls fn(range) for ranges that have every query of the decode kernel once.
  template <typename Fn>
  void for_each_decode_range(Fn fn) const {
    for (std::int64_t first = 0; first < num_sequences_; first += sequences_at_once_) {
      DecodeRange range{};
      range.by_sequence = has_prefill();
      range.first_sequence = static_cast<int>(first);
      range.num_sequences = static_cast<int>(std::min(sequences_at_once_, num_sequences_ - first));
      range.end_token = static_cast<int>(num_tokens_);
      range.end_query = max_decode_queries_;
      // What is cut: queries of a sequence, or tokens.
      int& begin = range.by_sequence ? range.first_query : range.first_token;
      int& end = range.by_sequence ? range.end_query : range.end_token;
      const int all = end;
      for (std::int64_t i = 0; i < all; i += queries_of_range_) {
        begin = static_cast<int>(i);
        end = static_cast<int>(std::min<std::int64_t>(i + queries_of_range_, all));
        fn(range);
      }
    }
  }

 private:
  std::int64_t num_tokens_, num_sequences_, num_kv_heads_;
  int max_decode_queries_;
  std::int64_t row_spans_;
  std::int64_t queries_at_once_;
  std::int64_t sequences_at_once_;
  std::int64_t queries_of_range_;  // of every sequence of a range, or of all
};

}  // namespace phi3::cuda
