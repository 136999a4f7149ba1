// One block at a time: its threads, where they wait for each other, and who runs next.
//
// A switch costs what a processor did not foretell, so a thread that waits hands over to the next
// one without asking the scheduler, through as few calls as it gets.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "async_copies.h"
#include "emulator/threads.h"
#include "fiber.h"
#include "shared_memory.h"

namespace phi3::emulator {

// Threads that wait for each other.
struct Meeting {
  const char* what = nullptr;
  Act act = nullptr;
  Absent absent = Absent::kAllowed;
  std::vector<int> arrived;  // threads
  std::vector<void*> arguments;
};

class Block {
 public:
  // Prepares for blocks of `num_threads` threads.
  void reset(int num_threads, std::size_t shared_bytes);
  // Runs all threads to their end, or throws a Fault.
  void run(const std::function<void()>& body, std::minstd_rand& random);

  // Of the running thread:
  void meet_warp(const char* what, void* argument, Act act, Absent absent);
  void meet_warpgroup(const char* what, void* argument, Act act);
  void meet_block(const char* what);
  void meet_barrier(const char* what, int id, int count);
  void wait_until(const char* what, bool (*is_true)(const void*), const void* argument);
  [[noreturn]] void fail(const std::string& message);
  // The same once `fault` is set, from a stack that may be spoilt: for handlers of signals.
  [[noreturn]] void fail_anew();

  int running() const { return running_; }  // -1: the scheduler
  Fiber& fiber_of_running() { return threads_[static_cast<std::size_t>(running_)].fiber; }
  AsyncCopies& copies_of_running() { return threads_[static_cast<std::size_t>(running_)].copies; }
  SharedMemory& shared_memory() { return shared_memory_; }
  std::string& fault() { return fault_; }

 private:
  enum class State { kNew, kReady, kWaiting, kAsking, kDone };
  struct Thread {
    State state = State::kNew;
    Fiber fiber;
    AsyncCopies copies;
    const char* waits_for = nullptr;
    bool (*is_true)(const void*) = nullptr;
    const void* argument = nullptr;
  };

  static void enter(void* block);
  bool may_run(Thread& thread) const;
  void choose(std::size_t place);
  void run_chosen();
  void suspend(State state, const char* waits_for);
  void meet(Meeting& meeting,
            int size,
            int first_thread,
            int num_alive,
            const char* what,
            void* argument,
            Act act,
            Absent absent);
  void complete(Meeting& meeting, int size);
  void end_thread();
  void forget_threads();
  std::string describe_waiting() const;

  std::vector<Thread> threads_;
  int num_threads_ = 0;
  int num_alive_ = 0;
  int running_ = -1;
  const std::function<void()>* body_ = nullptr;
  std::vector<int> order_;
  std::size_t place_ = 0;  // of the running thread
  Context scheduler_{};
  std::vector<Meeting> warps_, warpgroups_;
  std::vector<int> alive_in_warp_;
  Meeting all_;
  std::array<Meeting, 16> barriers_;
  SharedMemory shared_memory_;
  std::string fault_;
};

Block& block();

}  // namespace phi3::emulator
