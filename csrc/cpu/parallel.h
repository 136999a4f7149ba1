// Sharing the tasks of an op among threads.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace phi3::cpu {

inline constexpr int kMaxThreads = 256;

// Threads that ops use, the calling one included.
int num_threads();

// 0, as at first: one per available CPU (available_cpus.h). Throws Error outside 0..256. Takes
// effect with the next op.
void set_num_threads(int num_threads);

// Whether workers are tied to CPUs: the i-th to the i-th that the process may use, the first of
// which is for the thread that calls. That one is not tied to it: it belongs to the program. Off at
// first. Takes effect with the next op.
bool pin_threads();
void set_pin_threads(bool pin);

namespace detail {
void run_tasks(std::int64_t num_tasks,
               std::int64_t min_tasks_per_thread,
               void (*fn)(const void* context, std::int64_t task),
               const void* context);
}  // namespace detail

// Runs task(0) .. task(num_tasks - 1), in any order and on any thread, and returns when all are
// done.
//
// Each thread starts with its own contiguous range and then helps the others. A thread is woken
// only for `min_tasks_per_thread` tasks or more: waking costs a few microseconds. Nested and
// concurrent calls are allowed (they run on the calling thread alone). The first exception of a
// task is rethrown here once the others have stopped.
template <typename Task>
void parallel_for(std::int64_t num_tasks, std::int64_t min_tasks_per_thread, const Task& task) {
  detail::run_tasks(
      num_tasks,
      min_tasks_per_thread,
      [](const void* context, std::int64_t idx) { (*static_cast<const Task*>(context))(idx); },
      std::addressof(task));
}

// Tasks that are worth a thread when each costs about `cost` multiply-adds.
constexpr std::int64_t tasks_worth_a_thread(std::int64_t cost) {
  constexpr std::int64_t kThreadCost = 100'000;
  return cost >= kThreadCost ? 1 : kThreadCost / (cost > 0 ? cost : 1);
}

}  // namespace phi3::cpu
