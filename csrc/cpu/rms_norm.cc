#include <cstddef>

#include "cpu/cpu.h"
#include "cpu/norm_kernels.h"
#include "cpu/parallel.h"

namespace phi3::cpu {

void rms_norm(const RmsNormParams& params) {
  const auto normalize = rms_norm_kernel(kernels(), params.dtype, params.out_is_quantized);
  parallel_for(params.num_tokens, tasks_worth_a_thread(params.hidden_size), [&](std::int64_t t) {
    normalize(params.h + t * params.h_stride,
              params.weight,
              params.eps,
              static_cast<std::byte*>(params.out) + t * params.out_stride,
              params.hidden_size);
  });
}

}  // namespace phi3::cpu
