#include <cstddef>

#include "cpu/cpu.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"

namespace phi3::cpu {

void rms_norm(const RmsNormParams& params) {
  const Kernels& isa = kernels();
  const bool is_bf16 = params.dtype == DType::kBFloat16;
  const auto normalize = params.out_is_quantized
                             ? (is_bf16 ? isa.rms_norm_bf16_quantized : isa.rms_norm_f32_quantized)
                         : is_bf16 ? isa.rms_norm_bf16
                                   : isa.rms_norm_f32;
  parallel_for(params.num_tokens, tasks_worth_a_thread(params.hidden_size), [&](std::int64_t t) {
    normalize(params.h + t * params.h_stride,
              params.weight,
              params.eps,
              static_cast<std::byte*>(params.out) + t * params.out_stride,
              params.hidden_size);
  });
}

}  // namespace phi3::cpu
