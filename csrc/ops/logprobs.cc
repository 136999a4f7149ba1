#include "ops/logprobs.h"

#include <limits>

#include "core/match.h"
#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"

namespace phi3::ops {

void logprobs(const TensorView& logits,
              const TensorView& token_ids,
              const TensorView& out_logprobs,
              const TensorView& out_top_ids,
              const TensorView& out_top_logprobs) {
  Matcher matcher("logprobs");
  Dim rows("n");
  Dim vocab("V");
  Dim top("k");
  matcher.match_rows("logits", logits, DType::kFloat32, {&rows, &vocab});
  matcher.match("token_ids", token_ids, DType::kInt32, {&rows});
  matcher.match("out_logprobs", out_logprobs, DType::kFloat32, {&rows});
  matcher.match("out_top_ids", out_top_ids, DType::kInt32, {&rows, &top});
  matcher.match("out_top_logprobs", out_top_logprobs, DType::kFloat32, {&rows, &top});
  matcher.check(vocab.value() > 0 && vocab.value() <= std::numeric_limits<std::int32_t>::max(),
                std::source_location::current(),
                "logits dim 1 (V) is ",
                vocab.value(),
                ", expected 1..",
                std::numeric_limits<std::int32_t>::max());
  matcher.check(top.value() <= vocab.value(),
                std::source_location::current(),
                "out_top_ids dim 1 (k) is ",
                top.value(),
                ", expected 0..",
                vocab.value());
  run_on(matcher.device(),
         LogprobsParams{.logits = logits.as<const float>(),
                        .logits_stride = logits.stride(0),
                        .token_ids = token_ids.as<const std::int32_t>(),
                        .out_logprobs = out_logprobs.as<float>(),
                        .out_top_ids = out_top_ids.as<std::int32_t>(),
                        .out_top_logprobs = out_top_logprobs.as<float>(),
                        .num_rows = rows.value(),
                        .vocab_size = vocab.value(),
                        .num_top = top.value()},
         cpu::logprobs,
         cuda::logprobs);
}

}  // namespace phi3::ops
