#pragma once

#include <cstdint>
#include <optional>

#include "ops/kv_pages.h"

namespace phi3::ops {

// out = softmax(scale · q Kᵀ) V over the visible keys of each query's sequence; causal, grouped
// heads, paged.
//
// Query i of sequence b sits at pos = context_lens[b] - q_len + i, q_len = query_starts[b+1] -
// query_starts[b]; it sees key j iff j <= pos and (window == 0 or j > pos - window). Keys it does
// not see are never read into a sum: they may hold NaN. The bits of a row depend on its query, the
// keys and values it sees and its position alone.
//
// With block_sparse query head h sees of these keys only those in the blocks that BlockSparse
// names, block j / block_size for key j. Where that leaves out nothing, the bits are those without
// it.
//
// q:            A [T, H, D]
// k_pages:      as `qkv_rope` writes them, A or, with scales, int8
// v_pages:      the same
// block_tables: int32 [B, M], page ids; read only for pages that a query of this call sees. Rows
//               may be strided
// query_starts: int32 [B + 1], from 0 to T, ascending; a sequence may have no queries
// context_lens: int32 [B], keys of the sequence including those of this call
// out:          A [T, H·D], no overlap with q
// block_sparse: block_size 16, 32, 64, 128 or 256; num_local_blocks and vertical_stride at least 1,
//               head_step at least 0, each below 2^31; only with window 0
//
// workspace:    uint8, on CUDA: at least what attention_workspace_bytes says for one query, zeroed
//               once
//
// Int8 pages are not widened in memory: scores are sums over the stored numbers, then multiplied by
// their keys' scales, and softmax weights by their values' before they meet the stored numbers.
// Throws Error on a mismatch or an index out of range; then nothing is written.
void attention(const TensorView& q,
               const TensorView& k_pages,
               const TensorView& v_pages,
               const TensorView& block_tables,
               const TensorView& query_starts,
               const TensorView& context_lens,
               const TensorView& out,
               std::int64_t window,
               float scale,
               const std::optional<KvScales>& scales = std::nullopt,
               const std::optional<BlockSparse>& block_sparse = std::nullopt,
               const std::optional<TensorView>& workspace = std::nullopt);

// Bytes of workspace that `attention` can make use of on CUDA for T queries, with tables of M pages
// a row; those of one query are the least.
// Throws Error where a size is out of range.
std::int64_t attention_workspace_bytes(std::int64_t num_tokens,
                                       std::int64_t num_heads,
                                       std::int64_t head_dim,
                                       std::int64_t table_len);

}  // namespace phi3::ops
