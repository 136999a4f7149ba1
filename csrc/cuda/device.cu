// The devices of this machine. Nothing is asked of the driver before the first op: the extension
// loads where there is none.
#include <array>
#include <mutex>

#include "core/check.h"
#include "cuda/cuda.h"
#include "cuda/device.h"
#include "cuda/launch.h"

namespace phi3::cuda {
namespace {

constexpr int kMaxDevices = 64;

int attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, attribute, device), "device attribute");
  return value;
}

DeviceProperties properties_of(int device) {
  return {
      .index = device,
      .compute_capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
                            attribute(cudaDevAttrComputeCapabilityMinor, device),
      .num_sms = attribute(cudaDevAttrMultiProcessorCount, device),
  };
}

}  // namespace

const char* built_for() { return PHI3_CUDA_BUILT_FOR; }
bool owns(Device device) { return device.type == DeviceType::kCuda; }

const DeviceProperties& current_device() {
  static std::array<std::once_flag, kMaxDevices> asked;
  static std::array<DeviceProperties, kMaxDevices> known;
  int device = 0;
  check_cuda(cudaGetDevice(&device), "current device");
  PHI3_CHECK(
      device < kMaxDevices, "cuda: device ", device, " is beyond the last, ", kMaxDevices - 1);
  const auto index = static_cast<std::size_t>(device);
  std::call_once(asked[index], [&] { known[index] = properties_of(device); });
  return known[index];
}

}  // namespace phi3::cuda
