#include "cuda/cuda.h"
#include "cuda/launch.h"

namespace phi3::cuda {

DeviceScope::DeviceScope(Device device) {
  check_cuda(cudaGetDevice(&outer_), "current device");
  if (device.index != outer_) check_cuda(cudaSetDevice(device.index), "choice of a device");
}

DeviceScope::~DeviceScope() {
  int inner = 0;
  cudaGetDevice(&inner);
  if (inner != outer_) cudaSetDevice(outer_);
}

}  // namespace phi3::cuda
