// Op calls that were checked once and run together, as often as wanted.
#pragma once

#include <functional>
#include <memory>
#include <vector>

namespace phi3::ops {

// What ops are asked to do, in order. Recording checks dtypes, shapes and strides as a call does;
// the contents of index tensors (token ids, pages, positions) are checked by every run, as by a
// call. The memory of every tensor must outlive the program; `keep` helps with that.
//
// Running is not for two threads at once on the same outputs, as with ops.
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

  void add(std::function<void()> call) { calls_.push_back(std::move(call)); }

  // Holds on to what a call needs, for as long as the program lives.
  void keep(std::shared_ptr<void> owner) { owners_.push_back(std::move(owner)); }

  // Throws what a call throws; those behind it are then not made.
  void run() const;

  std::size_t size() const { return calls_.size(); }

 private:
  std::vector<std::function<void()>> calls_;
  std::vector<std::shared_ptr<void>> owners_;
};

}  // namespace phi3::ops
