#include "ops/embedding.h"

#include <limits>

#include "core/match.h"
#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"
#include "ops/scalars.h"

namespace phi3::ops {

void embedding(const TensorView& token_ids,
               const PackedView& table,
               const TensorView& out,
               std::int64_t vocab_size,
               float scale) {
  Matcher matcher("embedding");
  // On CUDA a packed table of floats looks like a plain one, unless it is padded.
  const bool is_padded = table.view.rank == 2 && table.view.size(0) == cuda_rows(vocab_size) &&
                         table.view.size(1) == cuda_columns(out.size(1));
  const bool is_packed = !is_float(table.format) || table.view.rank > 2 ||
                         (cuda::owns(table.view.device) && out.rank == 2 && is_padded);
  const DType dtype =
      is_float(table.format) ? matcher.model_dtype("table", table.view) : DType::kUInt8;
  constexpr std::int64_t kMaxVocab = std::numeric_limits<std::int32_t>::max();
  matcher.check(vocab_size >= 1 && vocab_size <= kMaxVocab,
                std::source_location::current(),
                "vocab_size is ",
                vocab_size,
                ", expected 1..",
                kMaxVocab);
  check_scale(matcher, scale);
  Dim tokens("T");
  Dim hidden("E");
  Dim vocab("V", vocab_size);
  matcher.match("token_ids", token_ids, DType::kInt32, {&tokens});
  matcher.match_out_rows("out", out, DType::kFloat32, {&tokens, &hidden});
  PackedWeight packed{};
  if (is_packed) {
    packed = match_packed(matcher, "table", table, dtype, vocab, hidden);
  } else {
    matcher.match("table", table.view, dtype, {&vocab, &hidden});
  }
  run_on(matcher.device(),
         EmbeddingParams{.dtype = dtype,
                         .token_ids = token_ids.as<const std::int32_t>(),
                         .table = is_packed ? nullptr : table.view.data,
                         .packed = packed,
                         .scale = scale,
                         .out = out.as<float>(),
                         .out_stride = out.stride(0),
                         .num_tokens = tokens.value(),
                         .hidden_size = hidden.value(),
                         .vocab_size = vocab_size},
         cpu::embedding,
         cuda::embedding);
}

}  // namespace phi3::ops
