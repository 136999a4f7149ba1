// The integer GEMMs of an ISA that has VNNI besides.
#include "cpu/kernels/functions.h"

namespace phi3::cpu::PHI3_ISA {

void extend(Kernels& kernels) {
  kernels.name = kIsaName;
  kernels.gemm_u8 = gemm_u8;
  kernels.gemm_u4 = gemm_u4;
  kernels.dequantize = dequantize;
}

}  // namespace phi3::cpu::PHI3_ISA
