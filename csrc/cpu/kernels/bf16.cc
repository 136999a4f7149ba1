// The bfloat16 GEMM of an ISA that has an instruction for it.
#include "cpu/kernels/functions.h"

#define PHI3_STRINGIFY(x) #x
#define PHI3_NAME(x) PHI3_STRINGIFY(x)

namespace phi3::cpu::PHI3_ISA {

void extend(Kernels& kernels) {
  kernels.name = PHI3_NAME(PHI3_ISA);
  kernels.gemm_bf16 = gemm_bf16;
}

}  // namespace phi3::cpu::PHI3_ISA
