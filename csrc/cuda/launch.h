// How a kernel is started: the only place with CUDA's launch syntax.
#pragma once

#include <cuda_runtime.h>

#include "cuda/launch_shape.h"

namespace phi3::cuda {

// Runs `kernel` on the stream, or has the stream's capture take it. A grid without blocks is no
// launch.
template <auto kernel, typename Params>
void launch(const LaunchShape& shape, Stream stream, const Params& params) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  if (shape.shared_bytes > 48 * 1024) {  // more must be asked for, once per device and kernel
    check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shape.shared_bytes)),
               "shared memory");
  }
  kernel<<<shape.grid, shape.threads, shape.shared_bytes, handle_of(stream)>>>(params);
  check_cuda(cudaGetLastError(), "launch");
}

}  // namespace phi3::cuda
