// What the checked ops hand to a backend: plain pointers and sizes, a shape on every pointer.
//
// A: the model dtype (float32 or bfloat16), named by `dtype`. T tokens, B sequences, H query heads,
// K kv heads, D head dim, E hidden, F MLP width, V vocabulary, N pages, M pages per block-table
// row. Row strides are in elements.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/weight_format.h"

namespace phi3 {

inline constexpr std::int64_t kPageSize = 16;  // tokens per KV page
inline constexpr std::int64_t kMaxHeadDim = 256;

// Weight of n rows and k columns in ceil(n/16) panels (for gate_up: alternating, see pack_gate_up);
// `panel` is for the layout of a CPU.
struct PackedWeight {
  const void* data;
  std::int64_t num_panels;
  std::int64_t in_features;  // k
  WeightFormat format;

  const std::byte* panel(std::int64_t idx) const {
    return static_cast<const std::byte*>(data) + idx * panel_bytes(format, in_features);
  }
};

// Rows of activations: A, or what `quantize` makes of them where the weight's format is an integer
// one.
struct Rows {
  const void* data;
  std::int64_t stride;  // in bytes

  const void* at(std::int64_t row) const {
    return static_cast<const std::byte*>(data) + row * stride;
  }
};

// Memory that an op may use meanwhile, on the device, zeroed once by its owner.
struct Workspace {
  std::byte* data = nullptr;
  std::int64_t num_bytes = 0;
};

struct CopyParams {
  const void* source;
  void* target;
  std::int64_t num_bytes;
};

// What a row of a weight is, where that decides where it is packed to.
enum class PackedRows : std::uint8_t { kPlain, kGateUp, kQkv };

// Of kQkv: the first `num_rotated_heads` heads, q and k, have `rotary_dim` dims that are rotated.
struct QkvRows {
  std::int64_t num_rotated_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t rotary_dim = 0;
};

struct PackParams {
  DType dtype;
  const void* weight;  // A [n, k]
  std::int64_t weight_stride;
  void* out;  // ceil(n/16) panels
  WeightFormat format;
  float* row_errors;         // [n]; null, or for integer formats, see pack_linear
  std::int64_t num_rows;     // n; for gate_up 2F
  std::int64_t in_features;  // k
  PackedRows rows;  // kGateUp: [gate|up], their panels alternate; kQkv matters on CUDA only
  QkvRows qkv;
};

struct UnpackParams {
  PackedWeight weight;
  float* out;             // [n, k]
  std::int64_t num_rows;  // n; for gate_up 2F
  PackedRows rows;        // kPlain or kGateUp
};

struct QuantizeParams {
  DType dtype;
  Rows x;            // A [T, k]
  std::int8_t* out;  // [T, quantized_row_bytes(k)]
  std::int64_t num_tokens, in_features;
};

struct EmbeddingParams {
  DType dtype;
  const std::int32_t* token_ids;  // [T]
  const void* table;              // A [V, E]; null where it is packed
  PackedWeight packed;
  float scale;
  float* out;  // [T, E]
  std::int64_t out_stride;
  std::int64_t num_tokens, hidden_size, vocab_size;
};

struct RmsNormParams {
  DType dtype;
  const float* h;  // [T, E]
  std::int64_t h_stride;
  const void* weight;       // A [E]
  void* out;                // A [T, E], or quantized rows
  std::int64_t out_stride;  // in bytes
  bool out_is_quantized;
  std::int64_t num_tokens, hidden_size;
  float eps;
};

struct LayerNormParams {
  DType dtype;
  const float* h;  // [T, E]
  std::int64_t h_stride;
  const void* weight;       // A [E]
  const void* bias;         // A [E]
  void* out;                // A [T, E], or quantized rows
  std::int64_t out_stride;  // in bytes
  bool out_is_quantized;
  std::int64_t num_tokens, hidden_size;
  float eps;
};

struct LinearParams {
  DType dtype;
  Rows x;               // [T, k]
  PackedWeight weight;  // n rows
  const void* bias;     // A [n], may be null
  float scale;          // of the product, not of the bias
  void* out;            // A or float32 [T, n]
  std::int64_t out_stride;
  bool out_is_f32;
  bool accumulate;  // out (float32) += instead of =
  std::int64_t num_tokens, out_features;
};

struct QkvRopeParams {
  DType dtype;
  Rows x;                         // [T, E]
  PackedWeight weight;            // (H + 2K) * D rows: q | k | v
  const void* bias;               // A [(H + 2K) * D], may be null
  const std::int32_t* positions;  // [T]
  const std::int32_t* rope_sets;  // [T]
  const float* rope_table;        // [S, max_pos, R/2, 2]: cos, sin
  const std::int32_t* slots;      // [T] page * 16 + offset
  DType kv_dtype;                 // A; int8 on a CPU, fp8 on CUDA
  void* k_pages;                  // bfloat16 [N, K, D/2, 16, 2], else [N, K, D, 16]; CUDA: as v
  void* v_pages;                  // [N, K, 16, D]
  float* k_scales;                // [N, K, 16], null unless pages are int8
  float* v_scales;                // [N, K, 16], null unless pages are int8
  void* q_out;                    // A [T, H, D]
  std::int64_t num_tokens, num_heads, num_kv_heads, head_dim, rotary_dim;
  std::int64_t num_pages, num_rope_sets, max_positions;
};

// Block-sparse attention: of the blocks of `block_size` keys up to its own, a query sees the
// `num_local_blocks` last, and those for which (block + head · head_step + 1) is a multiple of
// `vertical_stride`.
struct BlockSparse {
  std::int64_t block_size;  // a power of two from 16 to 256; 0 where attention is dense
  std::int64_t num_local_blocks;
  std::int64_t vertical_stride;
  std::int64_t head_step;
};

struct AttentionParams {
  DType dtype;
  const void* q;   // A [T, H, D]
  DType kv_dtype;  // this and the next four as in QkvRopeParams
  const void* k_pages;
  const void* v_pages;
  const float* k_scales;
  const float* v_scales;
  const std::int32_t* block_tables;  // [B, M]
  std::int64_t block_table_stride;
  const std::int32_t* query_starts;  // [B + 1]
  const std::int32_t* context_lens;  // [B]
  void* out;                         // A [T, H * D]
  std::int64_t num_tokens, num_sequences, table_len, num_heads, num_kv_heads, head_dim, num_pages;
  std::int64_t window;  // keys a query sees, itself included; 0 = all
  BlockSparse block_sparse;
  float scale;
  Workspace workspace;  // CUDA only
};

struct MlpParams {
  DType dtype;
  Rows x;                    // [T, E]
  PackedWeight gate_up;      // alternating gate and up panels, each padded to 16 rows
  PackedWeight down;         // E rows
  const void* gate_up_bias;  // A [2F], gate | up; may be null
  const void* down_bias;     // A [E], may be null
  bool is_gegelu;            // else SwiGLU
  float gegelu_limit;
  void* act;                   // A [T, F]
  std::int8_t* quantized_act;  // [T, quantized_row_bytes(F)] where down is of an integer format
  float* h;                    // [T, E], accumulated into
  std::int64_t h_stride;
  std::int64_t num_tokens, hidden_size, mlp_width;
};

// lm_head and classify_head: out = scale · norm(h[rows]) Wᵀ (+ bias).
struct HeadParams {
  DType dtype;
  const float* h;  // [T, E]
  std::int64_t h_stride;
  const std::int32_t* rows;  // [n]
  const void* norm_weight;   // A [E]
  const void* norm_bias;     // A [E]; null where the norm is rms_norm, else it is layer_norm
  PackedWeight weight;       // V or C rows
  const void* bias;          // A [V or C], may be null
  float scale;
  void* normed;  // A [n, E] workspace, or quantized rows, as the weight wants
  float* out;    // [n, V or C]
  std::int64_t num_tokens, num_rows, hidden_size, out_features;
  float eps;
  const char* op;  // name for messages
};

// Rows i own the entries starts[i] .. starts[i + 1]. All null: no row has a penalty.
struct PenaltyParams {
  const float* repetition;        // [n]
  const float* presence;          // [n]
  const float* frequency;         // [n]
  const std::int32_t* starts;     // [n+1]
  const std::int32_t* token_ids;  // [c]
  const std::int32_t* counts;     // [c]
  std::int64_t num_entries;       // c
};

// Rows i own the entries starts[i] .. starts[i + 1]. All null: no row has a bias.
struct BiasParams {
  const std::int32_t* starts;     // [n+1]
  const std::int32_t* token_ids;  // [b]
  const float* values;            // [b]
  std::int64_t num_entries;       // b
};

struct SampleParams {
  const float* logits;  // [n, V]
  std::int64_t logits_stride;
  const float* temperature;   // [n]
  const std::int32_t* top_k;  // [n]
  const float* top_p;         // [n]
  const float* min_p;         // [n], may be null
  const float* typical_p;     // [n], may be null
  PenaltyParams penalties;
  BiasParams biases;
  const std::int64_t* seeds;             // [n] bit pattern of a u64
  const std::int32_t* sequence_indices;  // [n]
  const std::int32_t* positions;         // [n]
  std::int32_t* out_ids;                 // [n]
  float* out_logprobs;                   // [n]
  std::int64_t num_rows, vocab_size;
  Workspace workspace;  // CUDA only
};

struct LogprobsParams {
  const float* logits;  // [n, V]
  std::int64_t logits_stride;
  const std::int32_t* token_ids;  // [n]
  float* out_logprobs;            // [n]
  std::int32_t* out_top_ids;      // [n, k]
  float* out_top_logprobs;        // [n, k]
  std::int64_t num_rows, vocab_size;
  std::int64_t num_top;  // k
};

}  // namespace phi3
