#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>
#include <map>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/available_cpus.h"
#include "cpu/parallel.h"

using phi3::cpu::allowed_cpus;
using phi3::cpu::parallel_for;
using phi3::cpu::set_num_threads;
using phi3::cpu::set_pin_threads;
using Clock = std::chrono::steady_clock;

// Waits as long as it takes, within reason.
template <typename Condition>
void wait_until(const Condition& condition) {
  const auto deadline = Clock::now() + std::chrono::seconds(30);
  while (!condition() && Clock::now() < deadline) std::this_thread::yield();
}

std::vector<int> own_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  std::vector<int> cpus;
  for (int id = 0; id < CPU_SETSIZE; ++id) {
    if (CPU_ISSET(id, &set)) cpus.push_back(id);
  }
  return cpus;
}

// Where each of the threads may run; all take part.
std::map<std::thread::id, std::vector<int>> cpus_of_threads(int num_threads) {
  std::mutex mutex;
  std::map<std::thread::id, std::vector<int>> cpus;
  parallel_for(num_threads, 1, [&](std::int64_t) {
    const auto num_here = [&] {
      const std::lock_guard lock(mutex);
      return cpus.size();
    };
    {
      const std::lock_guard lock(mutex);
      cpus[std::this_thread::get_id()] = own_cpus();
    }
    wait_until([&] { return num_here() == static_cast<std::size_t>(num_threads); });
  });
  return cpus;
}

double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

TEST(parallel_for_runs_every_task_once) {
  for (const int num_threads : {1, 2, 3, 8}) {
    set_num_threads(num_threads);
    for (const std::int64_t num_tasks : {0, 1, 2, 7, 64, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(num_tasks));
      parallel_for(
          num_tasks, 1, [&](std::int64_t task) { ++runs[static_cast<std::size_t>(task)]; });
      for (const auto& count : runs) EXPECT_EQ(count.load(), 1);
    }
  }
}

TEST(parallel_for_uses_the_other_threads) {
  set_num_threads(2);
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<bool> has_helped{false};
  // The worker is woken for the first task; the caller waits for it as long as it takes.
  parallel_for(2, 1, [&](std::int64_t) {
    if (std::this_thread::get_id() != caller) has_helped = true;
    wait_until([&] { return has_helped.load(); });
  });
  EXPECT(has_helped);
}

TEST(parallel_for_goes_on_without_a_thread_that_is_held_up) {
  set_num_threads(2);
  for (const std::int64_t slow : {0, 99}) {  // the first task of one thread, the last of the other
    std::atomic<int> num_done{0};
    parallel_for(100, 1, [&](std::int64_t task) {
      if (task == slow) wait_until([&] { return num_done == 99; });
      ++num_done;
    });
    EXPECT_EQ(num_done.load(), 100);
  }
}

TEST(parallel_for_keeps_few_tasks_on_the_caller) {
  set_num_threads(4);
  const std::thread::id caller = std::this_thread::get_id();
  parallel_for(10, 6, [&](std::int64_t) { EXPECT(std::this_thread::get_id() == caller); });
}

TEST(parallel_for_rethrows_an_exception_and_goes_on_working) {
  set_num_threads(3);
  for (int round = 0; round < 50; ++round) {
    bool has_thrown = false;
    try {
      parallel_for(100, 1, [](std::int64_t task) {
        if (task % 10 == 3) throw std::runtime_error("task");
      });
    } catch (const std::runtime_error& error) {
      has_thrown = std::string(error.what()) == "task";
    }
    EXPECT(has_thrown);
    std::atomic<int> sum{0};
    parallel_for(100, 1, [&](std::int64_t) { ++sum; });
    EXPECT_EQ(sum.load(), 100);
  }
}

TEST(parallel_for_may_be_nested) {
  set_num_threads(3);
  std::atomic<int> sum{0};
  parallel_for(10, 1, [&](std::int64_t) { parallel_for(10, 1, [&](std::int64_t) { ++sum; }); });
  EXPECT_EQ(sum.load(), 100);
}

TEST(parallel_for_may_be_called_by_several_threads_at_once) {
  set_num_threads(3);
  std::atomic<int> sum{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) parallel_for(20, 1, [&](std::int64_t) { ++sum; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum.load(), 4 * 200 * 20);
}

TEST(num_threads_may_change_between_and_during_ops) {
  std::atomic<bool> is_done{false};
  std::thread changer([&] {
    for (int round = 0; !is_done; ++round) set_num_threads(1 + round % 5);
  });
  std::atomic<int> sum{0};
  for (int round = 0; round < 100; ++round) parallel_for(50, 1, [&](std::int64_t) { ++sum; });
  is_done = true;
  changer.join();
  EXPECT_EQ(sum.load(), 100 * 50);
}

TEST(idle_threads_use_no_cpu) {
  for (const int num_threads : {2, 8}) {  // those that spin for a while, and more than CPUs
    set_num_threads(num_threads);
    cpus_of_threads(num_threads);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const double start = cpu_seconds();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    EXPECT(cpu_seconds() - start < 0.005);
  }
}

TEST(pinned_workers_have_a_cpu_each_and_the_caller_keeps_its_own) {
  const std::vector<int> all = own_cpus();
  EXPECT(all == allowed_cpus());
  set_num_threads(3);
  const std::thread::id caller = std::this_thread::get_id();
  std::vector<std::vector<int>> expected;  // of the two workers, in any order
  for (const std::size_t worker : {1, 2}) expected.push_back({all[worker % all.size()]});
  for (const bool pin : {false, true, false}) {
    set_pin_threads(pin);
    EXPECT_EQ(phi3::cpu::pin_threads(), pin);
    std::vector<std::vector<int>> found;
    for (const auto& [thread, cpus] : cpus_of_threads(3)) {
      if (thread == caller) {
        EXPECT(cpus == all);
      } else {
        found.push_back(cpus);
      }
    }
    std::sort(found.begin(), found.end());
    std::sort(expected.begin(), expected.end());
    EXPECT(found == (pin ? expected : std::vector<std::vector<int>>(2, all)));
  }
}

TEST(num_threads_is_one_per_available_cpu_unless_told) {
  set_num_threads(5);
  EXPECT_EQ(phi3::cpu::num_threads(), 5);
  set_num_threads(0);
  EXPECT_EQ(phi3::cpu::num_threads(), phi3::cpu::num_available_cpus());
}

TEST(num_threads_out_of_range_is_refused) {
  EXPECT_ERROR(set_num_threads(-1), "num_threads is -1, expected 0..256");
  EXPECT_ERROR(set_num_threads(257), "num_threads is 257, expected 0..256");
}
