#include "ops/sample.h"

#include <limits>

#include "core/match.h"
#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"

namespace phi3::ops {

void sample(const TensorView& logits,
            const TensorView& temperature,
            const TensorView& top_k,
            const TensorView& top_p,
            const TensorView& seeds,
            const TensorView& sequence_indices,
            const TensorView& positions,
            const TensorView& out_ids,
            const TensorView& out_logprobs) {
  Matcher matcher("sample");
  Dim rows("n");
  Dim vocab("V");
  matcher.match_rows("logits", logits, DType::kFloat32, {&rows, &vocab});
  matcher.match("temperature", temperature, DType::kFloat32, {&rows});
  matcher.match("top_k", top_k, DType::kInt32, {&rows});
  matcher.match("top_p", top_p, DType::kFloat32, {&rows});
  matcher.match("seeds", seeds, DType::kInt64, {&rows});
  matcher.match("sequence_indices", sequence_indices, DType::kInt32, {&rows});
  matcher.match("positions", positions, DType::kInt32, {&rows});
  matcher.match("out_ids", out_ids, DType::kInt32, {&rows});
  matcher.match("out_logprobs", out_logprobs, DType::kFloat32, {&rows});
  matcher.check(vocab.value() > 0 && vocab.value() <= std::numeric_limits<std::int32_t>::max(),
                std::source_location::current(),
                "logits dim 1 (V) is ",
                vocab.value(),
                ", expected 1..",
                std::numeric_limits<std::int32_t>::max());
  run_on(matcher.device(),
         SampleParams{.logits = logits.as<const float>(),
                      .logits_stride = logits.stride(0),
                      .temperature = temperature.as<const float>(),
                      .top_k = top_k.as<const std::int32_t>(),
                      .top_p = top_p.as<const float>(),
                      .seeds = seeds.as<const std::int64_t>(),
                      .sequence_indices = sequence_indices.as<const std::int32_t>(),
                      .positions = positions.as<const std::int32_t>(),
                      .out_ids = out_ids.as<std::int32_t>(),
                      .out_logprobs = out_logprobs.as<float>(),
                      .num_rows = rows.value(),
                      .vocab_size = vocab.value()},
         cpu::sample,
         cuda::sample);
}

}  // namespace phi3::ops
