#include <optional>
#include <vector>

#include "cuda/cuda.h"
#include "cuda/graph.h"
#include "cuda/launch.h"

namespace phi3::cuda {
namespace {

class Event {
 public:
  Event() { check_cuda(cudaEventCreate(&handle_), "event"); }
  ~Event() { cudaEventDestroy(handle_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(Stream stream) { check_cuda(cudaEventRecord(handle_, handle_of(stream)), "event"); }
  void try_record(Stream stream) noexcept {
    if (cudaEventRecord(handle_, handle_of(stream)) != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
    }
  }
  void wait() const { check_cuda(cudaEventSynchronize(handle_), "a launch failed"); }
  double seconds_since(const Event& earlier) const {
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, earlier.handle_, handle_), "elapsed time");
    return milliseconds * 1e-3;
  }

 private:
  cudaEvent_t handle_ = nullptr;
};

// Not the stream of the tensors: a default stream cannot be captured.
class CaptureStream {
 public:
  CaptureStream() {
    check_cuda(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "stream");
  }
  ~CaptureStream() { cudaStreamDestroy(handle_); }
  CaptureStream(const CaptureStream&) = delete;
  CaptureStream& operator=(const CaptureStream&) = delete;

  cudaStream_t handle() const { return handle_; }

 private:
  cudaStream_t handle_ = nullptr;
};

class Executable {
 public:
  explicit Executable(const std::vector<Graph::Call>& calls) {
    cudaGraph_t graph = captured(calls);
    const cudaError_t status = cudaGraphInstantiate(&handle_, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(status, "graph");
  }
  ~Executable() { cudaGraphExecDestroy(handle_); }
  Executable(const Executable&) = delete;
  Executable& operator=(const Executable&) = delete;

  void launch(Stream stream) const {
    check_cuda(cudaGraphLaunch(handle_, handle_of(stream)), "graph launch");
  }

 private:
  static cudaGraph_t captured(const std::vector<Graph::Call>& calls) {
    const CaptureStream stream;
    cudaGraph_t graph = nullptr;
    // Of this thread alone: others may go on with what a capture forbids, such as allocating.
    check_cuda(cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal),
               "capture");
    try {
      for (const Graph::Call& call : calls) call({stream.handle()});
    } catch (...) {
      cudaStreamEndCapture(stream.handle(), &graph);
      static_cast<void>(cudaGetLastError());
      if (graph != nullptr) cudaGraphDestroy(graph);
      throw;
    }
    check_cuda(cudaStreamEndCapture(stream.handle(), &graph), "capture");
    return graph;
  }

  cudaGraphExec_t handle_ = nullptr;
};

}  // namespace

struct Graph::State {
  Device device;
  std::vector<Call> calls;
  Event began, ended;
  bool was_launched = false;
  std::optional<Executable> executable;
};

Graph::Graph(Device device) {
  const DeviceScope scope(device);
  state_ = std::make_unique<State>();
  state_->device = device;
}

Graph::~Graph() {
  try {
    wait();
  } catch (const Error&) {
    // Nobody asked.
  }
}

Device Graph::device() const { return state_->device; }

void Graph::add(Call call) {
  if (state_->was_launched) wait();
  state_->executable.reset();
  state_->was_launched = false;
  state_->calls.push_back(std::move(call));
}

void Graph::launch() {
  const DeviceScope scope(state_->device);
  const Stream stream = state_->device.stream;
  if (state_->was_launched && !state_->executable) state_->executable.emplace(state_->calls);
  state_->began.record(stream);
  if (state_->executable) {
    state_->executable->launch(stream);
  } else {
    try {
      for (const Call& call : state_->calls) call(stream);
    } catch (...) {
      state_->ended.try_record(stream);  // those before may still use what the calls hold
      throw;
    }
  }
  state_->ended.record(stream);
  state_->was_launched = true;
}

void Graph::wait() const {
  // An event that was never recorded counts as over.
  state_->ended.wait();
}

double Graph::seconds() const { return state_->ended.seconds_since(state_->began); }

}  // namespace phi3::cuda
