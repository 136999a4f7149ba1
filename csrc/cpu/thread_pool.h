// The workers behind parallel_for.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <limits>
#include <thread>
#include <vector>

namespace phi3::cpu {

using TaskFn = void (*)(const void* context, std::int64_t task);

// Workers that help one thread at a time with a job. They spin for the next one, then sleep.
//
// A job is opened, and closed when nothing of it is left to start. Only a worker that came in
// between is waited for: one that the kernel does not run, as others use the CPU, holds up nobody.
class ThreadPool {
 public:
  static constexpr std::int64_t kMaxTasks = std::numeric_limits<std::int32_t>::max();

  // num_threads: with the one that calls `run`. pin: tie worker i to the i-th allowed CPU.
  ThreadPool(int num_threads, bool pin);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(members_.size()); }
  bool is_pinned() const { return is_pinned_; }

  // Runs the tasks on num_shares threads at most (1..num_threads). For one thread at a time. Throws
  // Error for more than kMaxTasks, and what a task throws.
  void run(std::int64_t num_tasks, int num_shares, TaskFn fn, const void* context);

 private:
  // kInside: in the job. kAwaited: so, and the caller sleeps until it has left.
  enum State : std::uint32_t { kAwake, kAsleep, kInside, kAwaited };

  // What a thread is up to, and the tasks that it has yet to start: the owner takes them from the
  // front, so that it reads memory in order, others from the back.
  struct alignas(64) Member {
    std::atomic<std::uint64_t> tasks{0};  // end << 32 | next
    std::atomic<std::uint32_t> state{kAwake};
  };

  Member& member(int idx) { return members_[static_cast<std::size_t>(idx)]; }
  void work(int self);
  std::uint32_t next_job(int self, std::uint32_t last);
  bool enter(int self, std::uint32_t job);
  void leave(int self);
  void take(int self);
  void run_task(std::int64_t task);
  void open();
  void close();
  void wake(int idx);
  void wake_children(int self);

  // The job. Workers watch `job_`: odd while one is open. Its fields change only when nobody is
  // inside.
  alignas(64) std::atomic<std::uint32_t> job_{0};
  std::atomic<int> num_shares_{0};
  TaskFn fn_ = nullptr;  // null: the end of the pool
  const void* context_ = nullptr;

  alignas(64) std::atomic<bool> has_error_{false};
  std::exception_ptr error_;

  const bool is_pinned_;
  const bool may_spin_;
  std::vector<Member> members_;  // [0]: the thread that calls run
  std::vector<std::thread> workers_;
};

}  // namespace phi3::cpu
