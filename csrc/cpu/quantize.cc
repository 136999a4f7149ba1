#include "cpu/cpu.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"

namespace phi3::cpu {

void quantize(const QuantizeParams& params) {
  const Kernels& isa = kernels();
  const auto quantize_row =
      params.dtype == DType::kBFloat16 ? isa.quantize_row_bf16 : isa.quantize_row_f32;
  const std::int64_t row_bytes = quantized_row_bytes(params.in_features);
  parallel_for(params.num_tokens, tasks_worth_a_thread(params.in_features), [&](std::int64_t t) {
    quantize_row(params.x.at(t), params.out + t * row_bytes, params.in_features);
  });
}

}  // namespace phi3::cpu
