// csrc/cuda/launch.h for the emulator.
#pragma once

#include <string_view>

#include "cuda/launch_shape.h"
#include "emulator/launch.h"

namespace phi3::cuda {

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
