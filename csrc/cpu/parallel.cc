#include "cpu/parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>

#include "core/check.h"
#include "cpu/available_cpus.h"
#include "cpu/float_mode.h"
#include "cpu/thread_pool.h"

namespace phi3::cpu {
namespace {

// Set while an op owns the pool; others then run alone.
std::atomic<bool> is_busy{false};
// Null until the first use. Never destroyed: workers may outlive static destructors.
std::atomic<ThreadPool*> pool{nullptr};
std::atomic<int> wanted_threads{0};  // 0: as many as CPUs, once they have been counted
std::atomic<bool> wants_pinning{false};

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

ThreadPool& owned_pool() {
  static const bool is_registered = [] {
    pthread_atfork(nullptr, nullptr, forget_pool_in_child);
    return true;
  }();
  static_cast<void>(is_registered);
  ThreadPool* current = pool.load(std::memory_order_acquire);
  const int wanted = num_threads();
  const bool pin = pin_threads();
  if (current == nullptr || current->num_threads() != wanted || current->is_pinned() != pin) {
    delete current;
    pool.store(nullptr, std::memory_order_release);
    current = new ThreadPool(wanted, pin);
    pool.store(current, std::memory_order_release);
  }
  return *current;
}

}  // namespace

int num_threads() {
  int wanted = wanted_threads.load(std::memory_order_acquire);
  if (wanted == 0) {
    const int initial = std::min(num_available_cpus(), kMaxThreads);
    wanted = wanted_threads.compare_exchange_strong(wanted, initial) ? initial : wanted;
  }
  return wanted;
}

void set_num_threads(int count) {
  PHI3_CHECK(
      count >= 0 && count <= kMaxThreads, "num_threads is ", count, ", expected 0..", kMaxThreads);
  // Takes effect with the next op, whose owner rebuilds the pool.
  wanted_threads.store(count, std::memory_order_release);
}

bool pin_threads() { return wants_pinning.load(std::memory_order_acquire); }

void set_pin_threads(bool pin) { wants_pinning.store(pin, std::memory_order_release); }

void detail::run_tasks(std::int64_t num_tasks,
                       std::int64_t min_tasks_per_thread,
                       TaskFn fn,
                       const void* context) {
  const std::int64_t useful = num_tasks / std::max<std::int64_t>(1, min_tasks_per_thread);
  const int num_shares = static_cast<int>(std::min<std::int64_t>(num_threads(), useful));
  const DefaultFloatMode float_mode;
  if (num_shares > 1) {
    if (const PoolOwnership ownership; ownership) {
      ThreadPool& owned = owned_pool();
      // Someone may have asked for fewer threads since they were counted.
      owned.run(num_tasks, std::min(num_shares, owned.num_threads()), fn, context);
      return;
    }
  }
  for (std::int64_t task = 0; task < num_tasks; ++task) fn(context, task);
}

}  // namespace phi3::cpu
