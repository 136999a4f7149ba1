// What a launch of CUDA takes, and what becomes of its errors: the emulator's launches too.
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

}  // namespace phi3::cuda
