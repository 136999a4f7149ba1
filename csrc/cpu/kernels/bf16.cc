// The bfloat16 GEMM of an ISA that has an instruction for it.
#include "cpu/kernels/functions.h"

namespace phi3::cpu::PHI3_ISA {

void extend(Kernels& kernels) {
  kernels.name = kIsaName;
  kernels.gemm_bf16 = gemm_bf16;
}

}  // namespace phi3::cpu::PHI3_ISA
