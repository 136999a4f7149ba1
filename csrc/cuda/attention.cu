#include <cstdint>

#include "core/check.h"
#include "cuda/attention_decode.cuh"
#include "cuda/attention_f32.cuh"
#include "cuda/attention_plan.h"
#include "cuda/attention_prefill.cuh"
#include "cuda/cuda.h"
#include "cuda/kernel_policy.h"
#include "cuda/launch.h"
#include "cuda/sm90/attention_prefill.h"
#include "cuda/sm90/mma_probe.h"

namespace phi3::cuda {
namespace {

float scale_to_log2(float scale) {
  constexpr double kLog2E = 1.4426950408889634;
  return static_cast<float>(scale * kLog2E);
}

template <typename Kv>
void run_f32(const AttentionParams& params, Stream stream) {
  const dim3 grid(static_cast<unsigned>(params.num_tokens),
                  static_cast<unsigned>(params.num_heads));
  launch<attention_f32<Kv>>({grid, kWarpSize, kAttentionF32SharedBytes},
                            stream,
                            AttentionF32Params{params, scale_to_log2(params.scale)});
}

template <typename Kv, int kHeadDim>
void run_decode(const AttentionParams& params, const AttentionPlan& plan, Stream stream) {
  std::byte* room = params.workspace.data;
  std::byte* totals = room + AttentionPlan::kNumCounters * sizeof(unsigned);
  const std::int64_t num_totals = plan.queries_at_once() * params.num_heads * plan.row_spans();
  DecodeParams p{
      .op = params,
      .scale = scale_to_log2(params.scale),
      .max_decode_queries = plan.max_decode_queries(),
      .range = {},
      .counters = reinterpret_cast<unsigned*>(room),
      .partials = {.totals = reinterpret_cast<RowTotal*>(totals),
                   .outs = reinterpret_cast<float*>(
                       totals + num_totals * static_cast<std::int64_t>(sizeof(RowTotal))),
                   .num_spans = plan.row_spans(),
                   .num_heads = static_cast<int>(params.num_heads),
                   .head_dim = static_cast<int>(params.head_dim)},
  };
  plan.for_each_decode_range([&](const DecodeRange& range) {
    p.range = range;
    const dim3 grid(static_cast<unsigned>(plan.decode_blocks(range)),
                    static_cast<unsigned>(params.num_kv_heads),
                    static_cast<unsigned>(range.num_sequences));
    launch<attention_decode<Kv, kHeadDim>>(
        {grid, kWarpSize, kDecodeSharedBytes<Kv, kHeadDim>}, stream, p);
  });
}

// Where a step on WGMMA rounds as one on mma.sync, or nobody minds.
bool may_use_wgmma() { return kernel_policy() == KernelPolicy::kFree || sm90::mma_agrees(); }

template <typename Kv, int kHeadDim>
void run_prefill(const AttentionParams& params, const AttentionPlan& plan, Stream stream) {
  const PrefillParams p{params, scale_to_log2(params.scale), plan.max_decode_queries()};
  if (sm90::can_run_prefill(params) && may_use_wgmma()) {
    sm90::attention_prefill(p, plan, stream);
    return;
  }
  const dim3 grid(static_cast<unsigned>(plan.max_prefill_tiles(kPrefillQueries)),
                  static_cast<unsigned>(params.num_heads));
  launch<attention_prefill<Kv, kHeadDim>>(
      {grid, kPrefillThreads, kPrefillSharedBytes<Kv, kHeadDim>}, stream, p);
}

template <typename Kv, int kHeadDim>
void run(const AttentionParams& params, Stream stream) {
  const AttentionPlan plan(params);
  if (plan.has_prefill()) run_prefill<Kv, kHeadDim>(params, plan, stream);
  run_decode<Kv, kHeadDim>(params, plan, stream);
}

// With the least of the compiled head dims that holds this one.
template <typename Kv>
void run_bf16(const AttentionParams& params, Stream stream) {
  if (params.head_dim <= 32) {
    run<Kv, 32>(params, stream);
  } else if (params.head_dim <= 64) {
    run<Kv, 64>(params, stream);
  } else if (params.head_dim <= 96) {
    run<Kv, 96>(params, stream);
  } else {
    run<Kv, 128>(params, stream);
  }
}

// The kernels copy 16 bytes at once.
void check_aligned(const char* name, const void* data) {
  PHI3_CHECK(reinterpret_cast<std::uintptr_t>(data) % 16 == 0,
             "attention: ",
             name,
             " lies at ",
             data,
             ", expected a multiple of 16 bytes");
}

}  // namespace

std::int64_t attention_workspace_bytes(std::int64_t num_tokens,
                                       std::int64_t num_heads,
                                       std::int64_t head_dim,
                                       std::int64_t table_len) {
  return AttentionPlan::workspace_bytes(num_tokens, num_heads, head_dim, table_len);
}

void attention(const AttentionParams& params, Stream stream) {
  PHI3_CHECK(params.head_dim <= kMaxCudaHeadDim,
             "attention: head dim (D) is ",
             params.head_dim,
             ", expected at most ",
             kMaxCudaHeadDim,
             " on cuda");
  if (params.num_tokens == 0 || params.num_sequences == 0) return;
  check_aligned("q", params.q);
  check_aligned("k_pages", params.k_pages);
  check_aligned("v_pages", params.v_pages);
  const bool is_float8 = params.kv_dtype == DType::kFloat8;
  if (params.dtype == DType::kFloat32) {
    is_float8 ? run_f32<Float8>(params, stream) : run_f32<float>(params, stream);
  } else {
    is_float8 ? run_bf16<Float8>(params, stream) : run_bf16<BFloat16>(params, stream);
  }
}

}  // namespace phi3::cuda
