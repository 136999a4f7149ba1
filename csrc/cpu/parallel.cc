#include "cpu/parallel.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "core/check.h"
#include "cpu/float_mode.h"

namespace phi3::cpu {
namespace {

// Long enough to bridge the gap between two ops of one step (some tens of microseconds), short
// enough that an idle or an oversubscribed machine soon has its CPU back.
constexpr int kSpins = 2000;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until `value` differs from `old`: spins, then sleeps in the kernel.
void wait_while(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  while (value.load(std::memory_order_acquire) == old) {
    value.wait(old, std::memory_order_acquire);
  }
}

// A thread's share of the tasks; other threads take from it too once theirs is empty.
struct alignas(64) Share {
  std::atomic<std::int64_t> next{0};
  std::int64_t end = 0;
};

class Pool {
 public:
  explicit Pool(int num_threads) : shares_(static_cast<std::size_t>(num_threads)) {
    for (int idx = 1; idx < num_threads; ++idx) {
      workers_.emplace_back([this, idx] { work(idx); });
    }
  }

  ~Pool() {
    stopping_.store(true, std::memory_order_relaxed);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int num_threads() const { return static_cast<int>(shares_.size()); }

  void run(std::int64_t num_tasks, int num_shares, detail::TaskFn fn, const void* context) {
    fn_ = fn;
    context_ = context;
    num_shares_ = num_shares;
    error_ = nullptr;
    has_error_.store(false, std::memory_order_relaxed);
    for (int idx = 0; idx < num_shares; ++idx) {
      Share& share = shares_[static_cast<std::size_t>(idx)];
      share.next.store(num_tasks * idx / num_shares, std::memory_order_relaxed);
      share.end = num_tasks * (idx + 1) / num_shares;
    }
    members_.store(0, std::memory_order_release);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    take(0);
    // Nothing is left to start. A worker that has not joined yet is not waited for: on a busy
    // machine it may take the kernel milliseconds to run it.
    std::uint32_t members = members_.fetch_or(kClosed, std::memory_order_acq_rel) | kClosed;
    while (members != kClosed) {
      wait_while(members_, members);
      members = members_.load(std::memory_order_acquire);
    }
    if (error_ != nullptr) std::rethrow_exception(error_);
  }

 private:
  static constexpr std::uint32_t kClosed = 1U << 31;

  void work(int self) {
    const DefaultFloatMode float_mode;
    std::uint32_t seen = 0;
    while (true) {
      wait_while(epoch_, seen);
      seen = epoch_.load(std::memory_order_acquire);
      if (stopping_.load(std::memory_order_relaxed)) return;
      if (!join()) continue;
      take(self % num_shares_);
      if (members_.fetch_sub(1, std::memory_order_acq_rel) == (kClosed | 1)) {
        members_.notify_one();
      }
    }
  }

  // While a worker is a member, the caller keeps the job's fields as they are.
  bool join() {
    std::uint32_t members = members_.load(std::memory_order_relaxed);
    while ((members & kClosed) == 0) {
      if (members_.compare_exchange_weak(
              members, members + 1, std::memory_order_acq_rel, std::memory_order_relaxed)) {
        return true;
      }
    }
    return false;
  }

  void take(int self) {
    for (int offset = 0; offset < num_shares_; ++offset) {
      Share& share = shares_[static_cast<std::size_t>((self + offset) % num_shares_)];
      while (share.next.load(std::memory_order_relaxed) < share.end) {
        const std::int64_t task = share.next.fetch_add(1, std::memory_order_relaxed);
        if (task >= share.end) break;
        if (has_error_.load(std::memory_order_relaxed)) return;
        try {
          fn_(context_, task);
        } catch (...) {
          if (!has_error_.exchange(true)) error_ = std::current_exception();
        }
      }
    }
  }

  std::vector<Share> shares_;
  std::atomic<std::uint32_t> epoch_{0};  // grows with every job; workers sleep on it
  std::atomic<std::uint32_t> members_{
      kClosed};  // workers inside the job; kClosed: no more may join
  std::atomic<bool> stopping_{false};

  // The job.
  detail::TaskFn fn_ = nullptr;
  const void* context_ = nullptr;
  int num_shares_ = 0;
  std::atomic<bool> has_error_{false};
  std::exception_ptr error_;

  std::vector<std::thread> workers_;  // last: they use all of the above from their start
};

// CPUs' worth of time that the container may use, or a large number.
int cgroup_limit() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return kMaxThreads;
  return std::max(1, static_cast<int>(std::stod(quota) / period + 0.5));
}

int default_num_threads() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  const int allowed = sched_getaffinity(0, sizeof cpus, &cpus) == 0
                          ? CPU_COUNT(&cpus)
                          : static_cast<int>(std::thread::hardware_concurrency());
  return std::clamp(std::min(allowed, cgroup_limit()), 1, kMaxThreads);
}

// Set while an op owns the pool; others then run alone.
std::atomic<bool> is_busy{false};
// Null until the first use. Never destroyed: workers may outlive static destructors.
std::atomic<Pool*> pool{nullptr};
std::atomic<int> wanted_threads{0};

class PoolOwnership {
 public:
  PoolOwnership() : is_owner_(!is_busy.exchange(true, std::memory_order_acquire)) {}
  ~PoolOwnership() {
    if (is_owner_) is_busy.store(false, std::memory_order_release);
  }
  PoolOwnership(const PoolOwnership&) = delete;
  PoolOwnership& operator=(const PoolOwnership&) = delete;

  explicit operator bool() const { return is_owner_; }

 private:
  bool is_owner_;
};

// A forked child has no workers: it forgets the pool and makes one of its own.
void forget_pool_in_child() {
  pool.store(nullptr);
  is_busy.store(false);
}

Pool& owned_pool() {
  static const bool is_registered = [] {
    pthread_atfork(nullptr, nullptr, forget_pool_in_child);
    return true;
  }();
  static_cast<void>(is_registered);
  Pool* current = pool.load(std::memory_order_acquire);
  const int wanted = num_threads();
  if (current == nullptr || current->num_threads() != wanted) {
    delete current;
    pool.store(nullptr, std::memory_order_release);
    current = new Pool(wanted);
    pool.store(current, std::memory_order_release);
  }
  return *current;
}

}  // namespace

int num_threads() {
  int wanted = wanted_threads.load(std::memory_order_acquire);
  if (wanted == 0) {
    const int initial = default_num_threads();
    wanted = wanted_threads.compare_exchange_strong(wanted, initial) ? initial : wanted;
  }
  return wanted;
}

void set_num_threads(int count) {
  PHI3_CHECK(
      count >= 1 && count <= kMaxThreads, "num_threads is ", count, ", expected 1..", kMaxThreads);
  // Takes effect with the next op, whose owner rebuilds the pool.
  wanted_threads.store(count, std::memory_order_release);
}

void detail::run_tasks(std::int64_t num_tasks,
                       std::int64_t min_tasks_per_thread,
                       TaskFn fn,
                       const void* context) {
  const std::int64_t useful = num_tasks / std::max<std::int64_t>(1, min_tasks_per_thread);
  const int num_shares = static_cast<int>(std::min<std::int64_t>(num_threads(), useful));
  const DefaultFloatMode float_mode;
  if (num_shares > 1) {
    if (const PoolOwnership ownership; ownership) {
      Pool& owned = owned_pool();
      // Someone may have asked for fewer threads since they were counted.
      owned.run(num_tasks, std::min(num_shares, owned.num_threads()), fn, context);
      return;
    }
  }
  for (std::int64_t task = 0; task < num_tasks; ++task) fn(context, task);
}

}  // namespace phi3::cpu
