// Op calls that were checked once and run together, as often as wanted.
#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "cuda/graph.h"

namespace phi3::ops {

// What ops are asked to do, in order. Recording checks dtypes, shapes and strides as a call does;
// the contents of index tensors (token ids, pages, positions) are checked by every run, as by a
// call. The memory of every tensor must outlive the program; `keep` helps with that.
//
// Running is not for two threads at once on the same outputs, as with ops.
//
// One whose tensors are on a CUDA device queues its calls there, behind what their stream has, and
// does not wait for them.
class Program {
 public:
  // While it lives, ops that its thread calls are added to `program` instead of being run. The
  // innermost one counts.
  class Recording {
   public:
    explicit Recording(Program& program);
    ~Recording();
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;

   private:
    Program* outer_;
  };

  // The program that the calling thread records, or null.
  static Program* recorded();

  // A call that returns false ends the run it is part of.
  void add(std::function<bool()> call);

  // A call that queues work on a CUDA device. A program has either these or the others.
  void queue(Device device, cuda::Graph::Call call);

  // Holds on to what a call needs, for as long as the program lives.
  void keep(std::shared_ptr<void> owner) { owners_.push_back(std::move(owner)); }

  // Whether all calls were made: false if one of them ended the run. Throws what a call throws;
  // those behind it are then not made.
  bool run() const;

  // Until what was queued on a CUDA device is over. Throws what went wrong with it.
  void wait() const;

  // Its calls on a CUDA device, or null.
  cuda::Graph* graph() const { return graph_.get(); }

  std::size_t size() const { return size_; }

 private:
  std::size_t size_ = 0;
  std::vector<std::function<bool()>> calls_;
  std::vector<std::shared_ptr<void>> owners_;
  std::unique_ptr<cuda::Graph> graph_;  // destroyed first: it may be running
};

// A run of a program on the background thread, one at a time in the order in which they were
// started; or, of one on a CUDA device, on that, where none is ended by what was before it, and the
// program's last run stands for all.
class BackgroundRun {
 public:
  // `program` must live until the run is over. It is not begun if `after`, started before, throws
  // or is ended by one of its calls.
  static std::shared_ptr<BackgroundRun> start(const Program& program,
                                              std::shared_ptr<const BackgroundRun> after);

  // As `Program::run`, once it is over; false also if it was not begun.
  bool wait() const;

  // How long it took; only once it is over.
  double seconds() const { return graph_ != nullptr ? graph_->seconds() : seconds_; }

  // Whether it is on a CUDA device; then its program sees to it that it has what it needs.
  bool is_on_device() const { return graph_ != nullptr; }

 private:
  void run(const Program& program, const BackgroundRun* after);

  const cuda::Graph* graph_ = nullptr;
  std::atomic<std::uint32_t> is_over_{0};
  bool is_complete_ = false;
  std::exception_ptr error_;
  double seconds_ = 0;
};

}  // namespace phi3::ops
