// The integer GEMMs of an ISA that has VNNI besides.
#include "cpu/kernels/functions.h"

#define PHI3_STRINGIFY(x) #x
#define PHI3_NAME(x) PHI3_STRINGIFY(x)

namespace phi3::cpu::PHI3_ISA {

void extend(Kernels& kernels) {
  kernels.name = PHI3_NAME(PHI3_ISA);
  kernels.gemm_u8 = gemm_u8;
  kernels.gemm_u4 = gemm_u4;
  kernels.dequantize = dequantize;
}

}  // namespace phi3::cpu::PHI3_ISA
