#include "core/dtype.h"
#include "cuda/attention_plan.h"
#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/sm90/attention_prefill.cuh"
#include "cuda/sm90/attention_prefill.h"

namespace phi3::cuda::sm90 {
namespace {

template <typename Kv, int kHeadDim>
void run(const PrefillParams& params, const AttentionPlan& plan, Stream stream) {
  const dim3 grid(static_cast<unsigned>(plan.max_prefill_tiles(kBlockQueries)),
                  static_cast<unsigned>(params.op.num_heads));
  launch<attention_prefill_wgmma<Kv, kHeadDim>>(
      {grid, kBlockThreads, sizeof(PrefillShared<Kv, kHeadDim>)}, stream, params);
}

template <typename Kv>
void run_head_dim(const PrefillParams& params, const AttentionPlan& plan, Stream stream) {
  if (params.op.head_dim == 64) {
    run<Kv, 64>(params, plan, stream);
  } else if (params.op.head_dim == 96) {
    run<Kv, 96>(params, plan, stream);
  } else {
    run<Kv, 128>(params, plan, stream);
  }
}

}  // namespace

bool can_run_prefill(const AttentionParams& params) {
  const bool is_compiled = params.head_dim == 64 || params.head_dim == 96 || params.head_dim == 128;
  return is_compiled && params.dtype == DType::kBFloat16 &&
         current_device().compute_capability == 90;
}

void attention_prefill(const PrefillParams& params, const AttentionPlan& plan, Stream stream) {
  if (params.op.kv_dtype == DType::kFloat8) {
    run_head_dim<Float8>(params, plan, stream);
  } else {
    run_head_dim<BFloat16>(params, plan, stream);
  }
}

}  // namespace phi3::cuda::sm90
