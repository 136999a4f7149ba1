#include "core/check.h"
#include "cuda/cuda.h"
#include "cuda/gemm.cuh"

namespace phi3::cuda {

void qkv_rope(const QkvRopeParams& params, Stream stream) {
  PHI3_CHECK(params.kv_dtype != DType::kInt8, "qkv_rope: int8 pages are not supported on cuda");
  gemm<QkvRopeEpilogue>({.op = "qkv_rope",
                         .dtype = params.dtype,
                         .x = params.x,
                         .weight = params.weight,
                         .num_tokens = params.num_tokens},
                        {.row_scales = row_scales(params.weight),
                         .dtype = params.dtype,
                         .bias = params.bias,
                         .positions = params.positions,
                         .rope_sets = params.rope_sets,
                         .rope_table = params.rope_table,
                         .slots = params.slots,
                         .kv_dtype = params.kv_dtype,
                         .k_pages = params.k_pages,
                         .v_pages = params.v_pages,
                         .q_out = params.q_out,
                         .num_heads = static_cast<std::uint32_t>(params.num_heads),
                         .num_kv_heads = static_cast<std::uint32_t>(params.num_kv_heads),
                         .head_dim = static_cast<std::uint32_t>(params.head_dim),
                         .rotary_dim = static_cast<std::uint32_t>(params.rotary_dim),
                         .num_slots = params.num_pages * kPageSize,
                         .num_rope_sets = params.num_rope_sets,
                         .max_positions = params.max_positions},
                        stream);
}

}  // namespace phi3::cuda
