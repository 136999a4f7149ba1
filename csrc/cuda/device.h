// What is known of the devices; includes no CUDA header.
#pragma once

namespace phi3::cuda {

struct DeviceProperties {
  int index = 0;
  int compute_capability = 0;  // 10 · major + minor: 80, 90
  int num_sms = 0;             // streaming multiprocessors
};

// Of the calling thread's current device, which the stream of an op must belong to. Asked for once
// per device; may be called while a stream is captured.
const DeviceProperties& current_device();

}  // namespace phi3::cuda
