// csrc/cuda/launch.h for the emulator.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>
#include <string_view>

#include "core/check.h"
#include "core/tensor_view.h"
#include "emulator/launch.h"

namespace phi3::cuda {

// Blocks, threads of each, and bytes of dynamic shared memory of each.
struct LaunchShape {
  dim3 grid;
  unsigned threads = 1;
  std::size_t shared_bytes = 0;
};

inline void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess) [[unlikely]] {
    throw Error(std::string("cuda: ") + what + ": " + cudaGetErrorString(status));
  }
}

inline cudaStream_t handle_of(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

template <auto kernel, typename Params>
void launch(const LaunchShape& shape, Stream stream, const Params& params) {
  static_assert(sizeof(Params) <= 4096, "more parameters than a launch takes");
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  constexpr std::string_view kName = __PRETTY_FUNCTION__;
  emulator::enqueue(handle_of(stream), [shape, params, kName] {
    emulator::run_grid(
        kName, shape.grid, shape.threads, shape.shared_bytes, [&params] { kernel(params); });
  });
}

}  // namespace phi3::cuda
