// How a kernel is started: the only place with CUDA's launch syntax.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>

#include "core/check.h"
#include "core/tensor_view.h"

namespace phi3::cuda {

// Blocks, threads of each, and bytes of dynamic shared memory of each.
struct LaunchShape {
  dim3 grid;
  unsigned threads = 1;
  std::size_t shared_bytes = 0;
};

inline void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess) [[unlikely]] {
    static_cast<void>(cudaGetLastError());  // it would be the next call's too
    throw Error(std::string("cuda: ") + what + ": " + cudaGetErrorString(status));
  }
}

inline cudaStream_t handle_of(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

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
