#include "core/check.h"
#include "core/dispatch.h"
#include "cpu/cpu.h"
#include "cpu/parallel.h"
#include "cpu/unpack_row.h"

namespace phi3::cpu {
namespace {

template <typename T>
void copy_row(const EmbeddingParams& params, std::int64_t id, float* out) {
  const T* row = static_cast<const T*>(params.table) + id * params.hidden_size;
  for (std::int64_t i = 0; i < params.hidden_size; ++i) out[i] = params.scale * to_float(row[i]);
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
  parallel_for(params.num_tokens, tasks_worth_a_thread(params.hidden_size), [&](std::int64_t t) {
    const std::int64_t id = params.token_ids[t];
    float* out = params.out + t * params.out_stride;
    if (params.table == nullptr) {
      unpack_row(params.packed, id, out);
      for (std::int64_t i = 0; i < params.hidden_size; ++i) out[i] *= params.scale;
    } else {
      dispatch_model_dtype(params.dtype, [&]<typename T>() { copy_row<T>(params, id, out); });
    }
  });
}

}  // namespace phi3::cpu
