#include <algorithm>

#include "core/check.h"
#include "core/dispatch.h"
#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "cpu/parallel.h"

namespace phi3::cpu {
namespace {

void check_indices(const QkvRopeParams& params) {
  for (std::int64_t t = 0; t < params.num_tokens; ++t) {
    PHI3_CHECK(params.positions[t] >= 0 && params.positions[t] < params.max_positions,
               "qkv_rope: positions[",
               t,
               "] is ",
               params.positions[t],
               ", expected 0..",
               params.max_positions - 1);
    PHI3_CHECK(params.rope_sets[t] >= 0 && params.rope_sets[t] < params.num_rope_sets,
               "qkv_rope: rope_sets[",
               t,
               "] is ",
               params.rope_sets[t],
               ", expected 0..",
               params.num_rope_sets - 1);
    PHI3_CHECK(params.slots[t] >= 0 && params.slots[t] < params.num_pages * kPageSize,
               "qkv_rope: slots[",
               t,
               "] is ",
               params.slots[t],
               ", expected 0..",
               params.num_pages * kPageSize - 1);
  }
}

// Rotate-half: dims i and i + R/2 form a pair. table: [R/2, 2] cos, sin.
void rotate(float* head, const float* table, std::int64_t rotary_dim) {
  const std::int64_t half = rotary_dim / 2;
  for (std::int64_t i = 0; i < half; ++i) {
    const float cos = table[2 * i];
    const float sin = table[2 * i + 1];
    const float first = head[i];
    const float second = head[i + half];
    head[i] = first * cos - second * sin;
    head[i + half] = second * cos + first * sin;
  }
}

template <typename T>
void write_dense(const float* head, T* out, std::int64_t head_dim) {
  for (std::int64_t d = 0; d < head_dim; ++d) out[d] = from_float<T>(head[d]);
}

// A K page is a packed panel of its 16 keys.
template <typename T>
void write_key(const float* head, T* page, std::int64_t key, std::int64_t head_dim) {
  constexpr std::int64_t kPair = sizeof(T) == 2 ? 2 : 1;
  for (std::int64_t d = 0; d < head_dim; ++d) {
    page[(d / kPair * kPageSize + key) * kPair + d % kPair] = from_float<T>(head[d]);
  }
}

// Where a token's key or value of one head goes.
struct Slot {
  std::int64_t head;  // page · K + kv head
  std::int64_t key;   // within the page
};

void write_quantized(const QkvRopeParams& params, Slot slot, bool is_value, const float* head) {
  const std::int64_t head_dim = params.head_dim;
  void* const pages = is_value ? params.v_pages : params.k_pages;
  auto* const page = static_cast<std::int8_t*>(pages) + slot.head * kPageSize * head_dim;
  float* const scales = is_value ? params.v_scales : params.k_scales;
  std::int8_t quantized[kMaxHeadDim];
  scales[slot.head * kPageSize + slot.key] = kernels().quantize(head, quantized, head_dim);
  for (std::int64_t d = 0; d < head_dim; ++d) {
    page[is_value ? slot.key * head_dim + d : d * kPageSize + slot.key] = quantized[d];
  }
}

template <typename T>
void write_head(const QkvRopeParams& params, std::int64_t t, std::int64_t head_idx, float* head) {
  const std::int64_t head_dim = params.head_dim;
  const bool is_query = head_idx < params.num_heads;
  const bool is_value = head_idx >= params.num_heads + params.num_kv_heads;
  if (!is_value) {
    const std::int64_t row = params.rope_sets[t] * params.max_positions + params.positions[t];
    rotate(head, params.rope_table + row * params.rotary_dim, params.rotary_dim);
  }
  if (is_query) {
    T* q_out = static_cast<T*>(params.q_out);
    write_dense(head, q_out + (t * params.num_heads + head_idx) * head_dim, head_dim);
    return;
  }
  const std::int64_t kv_head = head_idx - params.num_heads - (is_value ? params.num_kv_heads : 0);
  const Slot slot{.head = params.slots[t] / kPageSize * params.num_kv_heads + kv_head,
                  .key = params.slots[t] % kPageSize};
  const std::int64_t at = slot.head * kPageSize * head_dim;
  if (params.kv_dtype == DType::kInt8) {
    write_quantized(params, slot, is_value, head);
  } else if (is_value) {
    write_dense(head, static_cast<T*>(params.v_pages) + at + slot.key * head_dim, head_dim);
  } else {
    write_key(head, static_cast<T*>(params.k_pages) + at, slot.key, head_dim);
  }
}

}  // namespace

void qkv_rope(const QkvRopeParams& params) {
  check_indices(params);
  const Kernels& isa = kernels();
  const GemmBlock gemm(isa, params.weight);
  const std::int64_t num_total_heads = params.num_heads + 2 * params.num_kv_heads;
  const std::int64_t num_blocks = ceil_div(params.num_tokens, kBlockRows);
  const std::int64_t num_panels = params.head_dim / kPanelRows;
  const std::int64_t cost = params.weight.in_features * params.head_dim *
                            std::min<std::int64_t>(params.num_tokens, kBlockRows);
  parallel_for(num_total_heads * num_blocks, tasks_worth_a_thread(cost), [&](std::int64_t task) {
    alignas(64) float heads[kBlockRows * kMaxHeadDim];
    const std::int64_t head_idx = task / num_blocks;
    const std::int64_t begin = even_part(params.num_tokens, num_blocks, task % num_blocks);
    const std::int64_t end = even_part(params.num_tokens, num_blocks, task % num_blocks + 1);
    gemm({params.x.at(begin), params.x.stride},
         end - begin,
         head_idx * num_panels,
         num_panels,
         heads,
         params.head_dim);
    for (std::int64_t row = 0; row < end - begin; ++row) {
      float* head = heads + row * params.head_dim;
      add_bias(isa, params.dtype, params.bias, head_idx * params.head_dim, head, params.head_dim);
    }
    dispatch_model_dtype(params.dtype, [&]<typename T>() {
      for (std::int64_t t = begin; t < end; ++t) {
        write_head<T>(params, t, head_idx, heads + (t - begin) * params.head_dim);
      }
    });
  });
}

}  // namespace phi3::cpu
