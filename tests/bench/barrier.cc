// What the thread pool costs: built and run by tests/bench/barrier.py, one measurement a call.
//
//   barrier empty|meet|wake NUM_THREADS PIN NUM_ROUNDS   nanoseconds: median, 99th percentile
//   barrier steps NUM_THREADS PIN SECONDS                decode-like steps per second, CPUs used
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/spin.h"

namespace {

using phi3::cpu::parallel_for;
using Clock = std::chrono::steady_clock;

double ns_since(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

// Arithmetic that the compiler cannot shorten.
void work(int num_rounds) {
  double value = 1;
  for (int round = 0; round < num_rounds; ++round) {
    value = value * 0.999 + 0.5;
    asm volatile("" : : "g"(&value) : "memory");
  }
}

// A parallel_for that nobody leaves before all threads are in it.
void meet(int num_threads) {
  std::atomic<int> num_here{0};
  parallel_for(num_threads, 1, [&](std::int64_t) {
    num_here.fetch_add(1);
    while (num_here.load(std::memory_order_relaxed) < num_threads) phi3::cpu::relax();
  });
}

void print_quantiles(std::vector<double> ns) {
  std::sort(ns.begin(), ns.end());
  std::printf("%.0f %.0f\n", ns[ns.size() / 2], ns[ns.size() * 99 / 100]);
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return time.tv_sec + time.tv_usec * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Each op: a short part on the caller alone, then 64 tasks for all.
void print_steps_per_second(double seconds) {
  constexpr int kNumOps = 100;
  constexpr int kNumTasks = 64;
  constexpr int kTaskRounds = 1000;  // some microseconds
  int num_steps = 0;
  const double start_cpu_seconds = cpu_seconds();
  const auto start = Clock::now();
  do {
    for (int op = 0; op < kNumOps; ++op) {
      work(1000);
      parallel_for(kNumTasks, 1, [](std::int64_t) { work(kTaskRounds); });
    }
    ++num_steps;
  } while (ns_since(start) < seconds * 1e9);
  const double wall_seconds = ns_since(start) * 1e-9;
  std::printf(
      "%.3f %.3f\n", num_steps / wall_seconds, (cpu_seconds() - start_cpu_seconds) / wall_seconds);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  const std::string kind = argv[1];
  const int num_threads = std::atoi(argv[2]);
  phi3::cpu::set_num_threads(num_threads);
  phi3::cpu::set_pin_threads(std::atoi(argv[3]) != 0);
  if (kind == "steps") {
    print_steps_per_second(std::atof(argv[4]));
    return 0;
  }
  const int num_rounds = std::atoi(argv[4]);
  std::vector<double> ns;
  for (int round = 0; round < num_rounds; ++round) {
    if (kind == "wake") std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const auto start = Clock::now();
    if (kind == "empty") {
      parallel_for(num_threads, 1, [](std::int64_t) {});
    } else {
      meet(num_threads);
    }
    ns.push_back(ns_since(start));
  }
  print_quantiles(std::move(ns));
}
