#include "ops/sample.h"

#include <limits>

#include "core/match.h"
#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"
#include "ops/workspace.h"

namespace phi3::ops {
namespace {

const float* match_optional(Matcher& matcher,
                            const char* arg,
                            const std::optional<TensorView>& view,
                            Dim& rows) {
  if (!view) return nullptr;
  matcher.match(arg, *view, DType::kFloat32, {&rows});
  return view->as<const float>();
}

PenaltyParams match_penalties(Matcher& matcher, const SamplePenalties& penalties, Dim& rows) {
  Dim bounds("n+1", rows.value() + 1);
  Dim entries("c");
  matcher.match("repetition", penalties.repetition, DType::kFloat32, {&rows});
  matcher.match("presence", penalties.presence, DType::kFloat32, {&rows});
  matcher.match("frequency", penalties.frequency, DType::kFloat32, {&rows});
  matcher.match("seen_starts", penalties.starts, DType::kInt32, {&bounds});
  matcher.match("seen_ids", penalties.token_ids, DType::kInt32, {&entries});
  matcher.match("seen_counts", penalties.counts, DType::kInt32, {&entries});
  return {.repetition = penalties.repetition.as<const float>(),
          .presence = penalties.presence.as<const float>(),
          .frequency = penalties.frequency.as<const float>(),
          .starts = penalties.starts.as<const std::int32_t>(),
          .token_ids = penalties.token_ids.as<const std::int32_t>(),
          .counts = penalties.counts.as<const std::int32_t>(),
          .num_entries = entries.value()};
}

BiasParams match_biases(Matcher& matcher, const SampleBiases& biases, Dim& rows) {
  Dim bounds("n+1", rows.value() + 1);
  Dim entries("b");
  matcher.match("bias_starts", biases.starts, DType::kInt32, {&bounds});
  matcher.match("bias_ids", biases.token_ids, DType::kInt32, {&entries});
  matcher.match("bias_values", biases.values, DType::kFloat32, {&entries});
  return {.starts = biases.starts.as<const std::int32_t>(),
          .token_ids = biases.token_ids.as<const std::int32_t>(),
          .values = biases.values.as<const float>(),
          .num_entries = entries.value()};
}

}  // namespace

void sample(const TensorView& logits,
            const TensorView& temperature,
            const TensorView& top_k,
            const TensorView& top_p,
            const TensorView& seeds,
            const TensorView& sequence_indices,
            const TensorView& positions,
            const TensorView& out_ids,
            const TensorView& out_logprobs,
            const std::optional<TensorView>& min_p,
            const std::optional<TensorView>& typical_p,
            const std::optional<SamplePenalties>& penalties,
            const std::optional<SampleBiases>& biases,
            const std::optional<TensorView>& workspace) {
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
  const float* min_p_data = match_optional(matcher, "min_p", min_p, rows);
  const float* typical_p_data = match_optional(matcher, "typical_p", typical_p, rows);
  const PenaltyParams penalty_params =
      penalties ? match_penalties(matcher, *penalties, rows) : PenaltyParams{};
  const BiasParams bias_params = biases ? match_biases(matcher, *biases, rows) : BiasParams{};
  matcher.check(vocab.value() > 0 && vocab.value() <= std::numeric_limits<std::int32_t>::max(),
                std::source_location::current(),
                "logits dim 1 (V) is ",
                vocab.value(),
                ", expected 1..",
                std::numeric_limits<std::int32_t>::max());
  const Workspace room = match_workspace(matcher, workspace);
  run_on(matcher.device(),
         SampleParams{.logits = logits.as<const float>(),
                      .logits_stride = logits.stride(0),
                      .temperature = temperature.as<const float>(),
                      .top_k = top_k.as<const std::int32_t>(),
                      .top_p = top_p.as<const float>(),
                      .min_p = min_p_data,
                      .typical_p = typical_p_data,
                      .penalties = penalty_params,
                      .biases = bias_params,
                      .seeds = seeds.as<const std::int64_t>(),
                      .sequence_indices = sequence_indices.as<const std::int32_t>(),
                      .positions = positions.as<const std::int32_t>(),
                      .out_ids = out_ids.as<std::int32_t>(),
                      .out_logprobs = out_logprobs.as<float>(),
                      .num_rows = rows.value(),
                      .vocab_size = vocab.value(),
                      .workspace = room},
         cpu::sample,
         cuda::sample);
}

std::int64_t sample_workspace_bytes(std::int64_t num_rows, std::int64_t vocab_size) {
  check_sizes("sample_workspace_bytes", {{"num_rows", num_rows}, {"vocab_size", vocab_size}});
  return cuda::sample_workspace_bytes(num_rows, vocab_size);
}

}  // namespace phi3::ops
