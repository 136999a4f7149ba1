// check.h for kernels in the emulator.
#pragma once

#include <string>

#include "check.h"
#include "cuda/launch.h"

namespace phi3::cuda {

inline constexpr Stream kStream{};

// What the emulator says of a launch; empty where it is content.
template <auto kernel, typename Params>
std::string fault_of(const LaunchShape& shape, const Params& params) {
  try {
    launch<kernel>(shape, kStream, params);
  } catch (const emulator::Fault& fault) {
    return fault.what();
  }
  return "";
}

#define EXPECT_FAULT(kernel, shape, params, part)                              \
  do {                                                                         \
    const std::string message = ::phi3::cuda::fault_of<kernel>(shape, params); \
    if (message.find(part) == std::string::npos) {                             \
      ::phi3::test::report(__FILE__, __LINE__, "fault: '" + message + "'");    \
    }                                                                          \
  } while (false)

}  // namespace phi3::cuda
