// The emulated device: it owns every tensor, and has as few multiprocessors as make plans cut work.
#include "cuda/device.h"

#include "cuda/cuda.h"
#include "shared_memory.h"

namespace phi3::cuda {

const char* built_for() { return "emulated"; }
bool owns(Device) { return true; }

const DeviceProperties& current_device() {
  static constexpr DeviceProperties kDevice = {
      .index = 0,
      .compute_capability = 90,
      .num_sms = 4,
      .block_shared_bytes = emulator::SharedMemory::kMaxBytes,
      .sm_shared_bytes = 228 * 1024,
      .l2_bytes = 1024 * 1024,
  };
  return kDevice;
}

}  // namespace phi3::cuda
