#include "cpu/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <system_error>

#include "core/check.h"
#include "cpu/available_cpus.h"
#include "cpu/float_mode.h"
#include "cpu/spin.h"

namespace phi3::cpu {
namespace {

constexpr std::uint64_t tasks_of(std::int64_t next, std::int64_t end) {
  return static_cast<std::uint64_t>(end) << 32 | static_cast<std::uint64_t>(next);
}
constexpr std::int64_t next_of(std::uint64_t tasks) {
  return static_cast<std::int64_t>(tasks & 0xffffffff);
}
constexpr std::int64_t end_of(std::uint64_t tasks) {
  return static_cast<std::int64_t>(tasks >> 32);
}

// Where the kernel refuses, the thread runs anywhere, as without.
void pin_to(std::thread& thread, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(thread.native_handle(), sizeof set, &set);
}

}  // namespace

ThreadPool::ThreadPool(int num_threads, bool pin)
    : is_pinned_(pin),
      may_spin_(num_threads <= num_available_cpus()),
      members_(static_cast<std::size_t>(num_threads)) {
  const std::vector<int> cpus = allowed_cpus();
  for (int idx = 1; idx < num_threads; ++idx) {
    try {
      workers_.emplace_back([this, idx] { work(idx); });
    } catch (const std::system_error&) {
      break;  // the system gives no more threads: those there are do all of the work
    }
    if (pin && !cpus.empty()) {
      pin_to(workers_.back(), cpus[static_cast<std::size_t>(idx) % cpus.size()]);
    }
  }
}

ThreadPool::~ThreadPool() {
  num_shares_.store(num_threads(), std::memory_order_relaxed);
  fn_ = nullptr;
  open();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(std::int64_t num_tasks, int num_shares, TaskFn fn, const void* context) {
  PHI3_CHECK(num_tasks <= kMaxTasks,
             "parallel_for: ",
             num_tasks,
             " tasks, expected ",
             kMaxTasks,
             " at most");
  num_shares_.store(num_shares, std::memory_order_relaxed);
  fn_ = fn;
  context_ = context;
  error_ = nullptr;
  has_error_.store(false, std::memory_order_relaxed);
  for (int idx = 0; idx < num_shares; ++idx) {
    member(idx).tasks.store(
        tasks_of(num_tasks * idx / num_shares, num_tasks * (idx + 1) / num_shares),
        std::memory_order_relaxed);
  }
  open();
  take(0);
  close();
  if (error_ != nullptr) std::rethrow_exception(error_);
}

void ThreadPool::open() {
  job_.fetch_add(1);
  wake_children(0);
}

void ThreadPool::close() {
  // Against `enter`: a worker either sees this, or is seen here.
  job_.fetch_add(1);
  const int num_shares = num_shares_.load(std::memory_order_relaxed);
  for (int idx = 1; idx < num_shares; ++idx) {
    std::atomic<std::uint32_t>& state = member(idx).state;
    if (may_spin_ && spin_until([&] { return state.load() != kInside; })) continue;
    std::uint32_t expected = kInside;
    if (!state.compare_exchange_strong(expected, kAwaited)) continue;
    while (state.load() == kAwaited) state.wait(kAwaited);
  }
}

void ThreadPool::work(int self) {
  const DefaultFloatMode float_mode;
  for (std::uint32_t job = 0;;) {
    job = next_job(self, job);
    if (!enter(self, job)) continue;
    wake_children(self);
    const bool is_end = fn_ == nullptr;
    if (!is_end) take(self);
    leave(self);
    if (is_end) return;
  }
}

// Waits for an open job with a share for this worker, and not the one it had last.
std::uint32_t ThreadPool::next_job(int self, std::uint32_t last) {
  std::uint32_t job = last;
  const auto has_job = [&] {
    job = job_.load();
    return job % 2 == 1 && job != last && self < num_shares_.load(std::memory_order_relaxed);
  };
  if (may_spin_ && spin_until(has_job)) return job;
  std::atomic<std::uint32_t>& state = member(self).state;
  while (true) {
    // Against `wake`: it either sees that this worker sleeps, or the job is seen here.
    state.store(kAsleep);
    if (has_job()) {
      state.store(kAwake);
      return job;
    }
    state.wait(kAsleep);
    if (has_job()) return job;
  }
}

bool ThreadPool::enter(int self, std::uint32_t job) {
  member(self).state.store(kInside);
  if (job_.load() == job) return true;
  leave(self);
  return false;
}

void ThreadPool::leave(int self) {
  std::atomic<std::uint32_t>& state = member(self).state;
  if (state.exchange(kAwake) == kAwaited) state.notify_one();
}

// A tree, as each wake costs its thread some microseconds.
void ThreadPool::wake_children(int self) {
  wake(2 * self + 1);
  wake(2 * self + 2);
}

void ThreadPool::wake(int idx) {
  if (idx >= num_shares_.load(std::memory_order_relaxed)) return;
  std::atomic<std::uint32_t>& state = member(idx).state;
  std::uint32_t expected = kAsleep;
  if (state.load() == kAsleep && state.compare_exchange_strong(expected, kAwake)) {
    state.notify_one();
  }
}

void ThreadPool::take(int self) {
  std::atomic<std::uint64_t>& own = member(self).tasks;
  while (true) {
    const std::uint64_t tasks = own.fetch_add(1, std::memory_order_relaxed);
    if (next_of(tasks) >= end_of(tasks)) break;
    run_task(next_of(tasks));
  }
  const int num_shares = num_shares_.load(std::memory_order_relaxed);
  for (int offset = 1; offset < num_shares; ++offset) {
    std::atomic<std::uint64_t>& other = member((self + offset) % num_shares).tasks;
    std::uint64_t tasks = other.load(std::memory_order_relaxed);
    while (next_of(tasks) < end_of(tasks)) {
      const std::uint64_t rest = tasks_of(next_of(tasks), end_of(tasks) - 1);
      if (other.compare_exchange_weak(tasks, rest, std::memory_order_relaxed)) {
        run_task(end_of(rest));
        tasks = rest;
      }
    }
  }
}

void ThreadPool::run_task(std::int64_t task) {
  // After an error, the rest is only counted off.
  if (has_error_.load(std::memory_order_relaxed)) return;
  try {
    fn_(context_, task);
  } catch (...) {
    if (!has_error_.exchange(true)) error_ = std::current_exception();
  }
}

}  // namespace phi3::cpu
