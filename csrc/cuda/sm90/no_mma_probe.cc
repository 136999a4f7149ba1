// The interface of mma_probe.h where nothing is compiled for sm_90a, and in the emulated build,
// whose tests compare the kernels of both instructions.
#include "cuda/sm90/mma_probe.h"

namespace phi3::cuda::sm90 {

bool mma_agrees() { return false; }

}  // namespace phi3::cuda::sm90
