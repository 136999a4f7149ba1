#include "core/check.h"
#include "core/dispatch.h"
#include "cpu/cpu.h"
#include "cpu/parallel.h"

namespace phi3::cpu {
namespace {

template <typename T>
void copy_row(const EmbeddingParams& params, std::int64_t id, float* out) {
  const std::int64_t size = params.hidden_size;
  const T* table = static_cast<const T*>(params.table);
  if (!params.is_packed) {
    const T* row = table + id * size;
    for (std::int64_t i = 0; i < size; ++i) out[i] = params.scale * to_float(row[i]);
    return;
  }
  constexpr std::int64_t kPair = sizeof(T) == 2 ? 2 : 1;
  const PackedWeight packed{params.table, 0, size};
  const T* panel = table + id / kPanelRows * packed.panel_elements(params.dtype);
  const T* lane = panel + id % kPanelRows * kPair;
  for (std::int64_t i = 0; i < size; ++i) {
    out[i] = params.scale * to_float(lane[i / kPair * kPair * kPanelRows + i % kPair]);
  }
}

}  // namespace

void embedding(const EmbeddingParams& params) {
  for (std::int64_t t = 0; t < params.num_tokens; ++t) {
    PHI3_CHECK(params.token_ids[t] >= 0 && params.token_ids[t] < params.vocab_size,
               "embedding: token_ids[",
               t,
               "] is ",
               params.token_ids[t],
               ", expected 0..",
               params.vocab_size - 1);
  }
  dispatch_model_dtype(params.dtype, [&]<typename T>() {
    parallel_for(params.num_tokens, tasks_worth_a_thread(params.hidden_size), [&](std::int64_t t) {
      copy_row<T>(params, params.token_ids[t], params.out + t * params.out_stride);
    });
  });
}

}  // namespace phi3::cpu
