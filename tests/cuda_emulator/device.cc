// The emulated device: it owns every tensor, and has as few multiprocessors as make plans cut work.
#include "cuda/device.h"

#include "cuda/cuda.h"

namespace phi3::cuda {

const char* built_for() { return "emulated"; }
bool owns(Device) { return true; }

const DeviceProperties& current_device() {
  static constexpr DeviceProperties kDevice = {
      .index = 0,
      .compute_capability = 90,
      .num_sms = 4,
  };
  return kDevice;
}

}  // namespace phi3::cuda
