#include "ops/attention.h"

#include <bit>
#include <limits>

#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"
#include "ops/scalars.h"
#include "ops/workspace.h"

namespace phi3::ops {
namespace {

void check_block_sparse(const Matcher& matcher, const BlockSparse& sparse, std::int64_t window) {
  const auto where = std::source_location::current();
  const std::int64_t size = sparse.block_size;
  matcher.check(size >= kPageSize && size <= 256 && std::has_single_bit(std::uint64_t(size)),
                where,
                "block_sparse.block_size is ",
                size,
                ", expected 16, 32, 64, 128 or 256");
  const auto check_range = [&](const char* name, std::int64_t value, std::int64_t least) {
    matcher.check(value >= least && value <= std::numeric_limits<std::int32_t>::max(),
                  where,
                  "block_sparse.",
                  name,
                  " is ",
                  value,
                  ", expected ",
                  least,
                  "..",
                  std::numeric_limits<std::int32_t>::max());
  };
  check_range("num_local_blocks", sparse.num_local_blocks, 1);
  check_range("vertical_stride", sparse.vertical_stride, 1);
  check_range("head_step", sparse.head_step, 0);
  matcher.check(window == 0, where, "window is ", window, ", expected 0 with block_sparse");
}

}  // namespace

void attention(const TensorView& q,
               const TensorView& k_pages,
               const TensorView& v_pages,
               const TensorView& block_tables,
               const TensorView& query_starts,
               const TensorView& context_lens,
               const TensorView& out,
               std::int64_t window,
               float scale,
               const std::optional<KvScales>& scales,
               const std::optional<BlockSparse>& block_sparse,
               const std::optional<TensorView>& workspace) {
  Matcher matcher("attention");
  const DType dtype = matcher.model_dtype("q", q);
  Dim tokens("T");
  Dim sequences("B");
  Dim table_len("M");
  AttentionDims dims;
  matcher.match("q", q, dtype, {&tokens, &dims.heads, &dims.head_dim});
  const DType kv_dtype = match_kv_pages(matcher, k_pages, v_pages, scales, dtype, dims);
  matcher.match("context_lens", context_lens, DType::kInt32, {&sequences});
  matcher.match_rows("block_tables", block_tables, DType::kInt32, {&sequences, &table_len});
  Dim starts("B + 1", sequences.value() + 1);
  matcher.match("query_starts", query_starts, DType::kInt32, {&starts});
  Dim width("H D", dims.heads.value() * dims.head_dim.value());
  matcher.match("out", out, dtype, {&tokens, &width});
  matcher.check(
      window >= 0, std::source_location::current(), "window is ", window, ", expected at least 0");
  check_scale(matcher, scale);
  if (block_sparse) check_block_sparse(matcher, *block_sparse, window);
  const Workspace room = match_workspace(matcher, workspace);
  run_on(matcher.device(),
         AttentionParams{.dtype = dtype,
                         .q = q.data,
                         .kv_dtype = kv_dtype,
                         .k_pages = k_pages.data,
                         .v_pages = v_pages.data,
                         .k_scales = scales ? scales->k.as<const float>() : nullptr,
                         .v_scales = scales ? scales->v.as<const float>() : nullptr,
                         .block_tables = block_tables.as<const std::int32_t>(),
                         .block_table_stride = block_tables.stride(0),
                         .query_starts = query_starts.as<const std::int32_t>(),
                         .context_lens = context_lens.as<const std::int32_t>(),
                         .out = out.data,
                         .num_tokens = tokens.value(),
                         .num_sequences = sequences.value(),
                         .table_len = table_len.value(),
                         .num_heads = dims.heads.value(),
                         .num_kv_heads = dims.kv_heads.value(),
                         .head_dim = dims.head_dim.value(),
                         .num_pages = dims.pages.value(),
                         .window = window,
                         .block_sparse = block_sparse.value_or(BlockSparse{}),
                         .scale = scale,
                         .workspace = room},
         cpu::attention,
         cuda::attention);
}

std::int64_t attention_workspace_bytes(std::int64_t num_tokens,
                                       std::int64_t num_heads,
                                       std::int64_t head_dim,
                                       std::int64_t table_len) {
  check_sizes("attention_workspace_bytes",
              {{"num_tokens", num_tokens},
               {"num_heads", num_heads},
               {"head_dim", head_dim},
               {"table_len", table_len}});
  return cuda::attention_workspace_bytes(num_tokens, num_heads, head_dim, table_len);
}

}  // namespace phi3::ops
