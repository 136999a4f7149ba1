#include "emulator/launch.h"

#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <random>
#include <string>

#include "block.h"
#include "signals.h"

uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace phi3::emulator {

namespace {

// Launches take turns: the built-in variables are there once.
std::mutex& turn() {
  static std::mutex mutex;
  return mutex;
}

std::minstd_rand& random_order() {
  static std::minstd_rand random = [] {
    const char* seed = std::getenv("PHI3_EMULATOR_SEED");
    return std::minstd_rand(seed == nullptr ? 1U : static_cast<unsigned>(std::atoi(seed)));
  }();
  return random;
}

// "… kernel = phi3::cuda::norm; Params = …" of a function's name.
std::string kernel_name(std::string_view function) {
  constexpr std::string_view kBefore = "kernel = ";
  const std::size_t begin = function.find(kBefore);
  if (begin == std::string_view::npos) return std::string(function);
  function.remove_prefix(begin + kBefore.size());
  return std::string(function.substr(0, function.find("; Params")));
}

void check_shape(dim3 grid, unsigned threads, std::size_t shared_bytes) {
  if (threads < 1 || threads > 1024) throw Fault("has " + std::to_string(threads) + " threads");
  if (grid.x > 0x7fffffffU || grid.y > 65535 || grid.z > 65535) throw Fault("has a grid too large");
  if (shared_bytes > SharedMemory::kMaxBytes) {
    throw Fault("wants " + std::to_string(shared_bytes) + " bytes of shared memory");
  }
}

}  // namespace

void run_grid(std::string_view kernel,
              dim3 grid,
              unsigned threads,
              std::size_t shared_bytes,
              const std::function<void()>& body) {
  const std::scoped_lock lock(turn());
  handle_signals();
  std::string where;
  try {
    check_shape(grid, threads, shared_bytes);
    gridDim = grid;
    blockDim = dim3(threads);
    block().reset(static_cast<int>(threads), shared_bytes);
    // Multiples of a step that shares no factor with their number are all the blocks.
    const std::uint64_t count = std::uint64_t{grid.x} * grid.y * grid.z;
    std::minstd_rand& random = random_order();
    const std::uint64_t first = random() % count;
    std::uint64_t step = random() % count + 1;
    while (std::gcd(step, count) != 1) ++step;
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t idx = (first + i * step) % count;
      blockIdx = {static_cast<unsigned>(idx % grid.x),
                  static_cast<unsigned>(idx / grid.x % grid.y),
                  static_cast<unsigned>(idx / grid.x / grid.y)};
      where = "block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
              std::to_string(blockIdx.z) + ") ";
      block().run(body, random);
    }
  } catch (const Fault& fault) {
    throw Fault("cuda emulator: " + kernel_name(kernel) + ": " + where + fault.what());
  }
}

}  // namespace phi3::emulator
