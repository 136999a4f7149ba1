// Asks a device once. The kernels are in mma_probe.cuh.
#include <map>
#include <mutex>

#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/sm90/mma_probe.cuh"
#include "cuda/sm90/mma_probe.h"

namespace phi3::cuda::sm90 {
namespace {

constexpr unsigned kNumBlocks = 64;

// Lets this thread wait and allocate although a stream of it is captured: the probe has its own.
class RelaxedCapture {
 public:
  RelaxedCapture() { check_cuda(cudaThreadExchangeStreamCaptureMode(&outer_), "capture mode"); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&outer_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode outer_ = cudaStreamCaptureModeRelaxed;  // until it is exchanged
};

class ProbeStream {
 public:
  ProbeStream() {
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  }
  ~ProbeStream() { cudaStreamDestroy(stream_); }
  ProbeStream(const ProbeStream&) = delete;
  ProbeStream& operator=(const ProbeStream&) = delete;

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

__device__ unsigned num_different_sums;  // of a device; counted once

bool probe() {
  const RelaxedCapture relaxed;
  const ProbeStream stream;
  void* counter = nullptr;
  check_cuda(cudaGetSymbolAddress(&counter, num_different_sums), "probe");
  launch_mma_probes(kNumBlocks, Stream{stream.get()}, ProbeParams{static_cast<unsigned*>(counter)});
  unsigned num_different = 0;
  check_cuda(cudaMemcpyAsync(
                 &num_different, counter, sizeof(unsigned), cudaMemcpyDeviceToHost, stream.get()),
             "probe");
  check_cuda(cudaStreamSynchronize(stream.get()), "probe");
  return num_different == 0;
}

}  // namespace

bool mma_agrees() {
  static std::mutex mutex;
  static std::map<int, bool> known;  // by device
  const DeviceProperties& device = current_device();
  if (device.compute_capability != 90) return false;
  const std::scoped_lock lock(mutex);
  const auto found = known.find(device.index);
  if (found != known.end()) return found->second;
  return known[device.index] = probe();
}

}  // namespace phi3::cuda::sm90
