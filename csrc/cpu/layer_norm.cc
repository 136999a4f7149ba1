#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"

namespace phi3::cpu {

void layer_norm(const LayerNormParams& params) {
  const Kernels& isa = kernels();
  const auto normalize =
      params.dtype == DType::kBFloat16 ? isa.layer_norm_bf16 : isa.layer_norm_f32;
  parallel_for(params.num_tokens, tasks_worth_a_thread(params.hidden_size), [&](std::int64_t t) {
    normalize(params.h + t * params.h_stride,
              params.weight,
              params.bias,
              params.eps,
              offset(params.out, params.dtype, t * params.out_stride),
              params.hidden_size);
  });
}

}  // namespace phi3::cpu
