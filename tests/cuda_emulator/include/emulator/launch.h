// Runs a grid on the CPU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string_view>

namespace phi3::emulator {

// A kernel did what hardware would punish or leave undefined.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// `body` is one thread. Blocks run one after the other, in an order that depends on the seed
// (PHI3_EMULATOR_SEED) and differs from launch to launch; so do the threads of a block.
void run_grid(std::string_view kernel,
              dim3 grid,
              unsigned threads,
              std::size_t shared_bytes,
              const std::function<void()>& body);

// Runs `work` now, or keeps it for the graph that `stream` captures.
void enqueue(cudaStream_t stream, std::function<void()> work);

}  // namespace phi3::emulator
