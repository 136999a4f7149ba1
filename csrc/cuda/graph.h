// Work of a device that is queued again and again, in one go; includes no CUDA header.
#pragma once

#include <functional>
#include <memory>

#include "core/tensor_view.h"

namespace phi3::cuda {

// Calls that queue work on a stream. The first launch makes them as they are, so that kernels get
// loaded and what is asked of a device once is asked; the second one has a stream capture them as a
// CUDA graph; from then on a launch is that graph's. What is computed is the same.
//
// A launch is behind what was queued before it on the device's stream, and returns at once. Not for
// two threads at once.
class Graph {
 public:
  using Call = std::function<void(Stream)>;

  explicit Graph(Device device);
  // Waits for the last launch: it may use what the calls hold.
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  Device device() const;
  void add(Call call);
  void launch();

  // Until the last launch is over. Throws what went wrong with it.
  void wait() const;
  // How long it took on the device; only once it is over.
  double seconds() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace phi3::cuda
