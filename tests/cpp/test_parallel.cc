#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/parallel.h"

using phi3::cpu::parallel_for;
using phi3::cpu::set_num_threads;

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
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!has_helped && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  });
  EXPECT(has_helped);
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

TEST(num_threads_out_of_range_is_refused) {
  EXPECT_ERROR(set_num_threads(0), "num_threads is 0, expected 1..256");
  EXPECT_ERROR(set_num_threads(257), "num_threads is 257, expected 1..256");
}
