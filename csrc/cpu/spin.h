// Waiting for another thread without the kernel's help, for a while.
#pragma once

#include <atomic>
#include <chrono>

namespace phi3::cpu {

// Twice as long as it takes to wake a sleeping thread (tests/bench/results/barrier.md), so that
// waiting never costs more than three times what the better of spinning and sleeping would have. It
// bridges the gaps between the ops of a step; an idle or an oversubscribed machine soon has its CPU
// back. A time, as a pause takes 25 ns on one CPU and 5 on the next.
inline constexpr std::chrono::microseconds kSpinTime{50};

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether `is_over()` became true within kSpinTime.
template <typename Condition>
bool spin_until(const Condition& is_over) {
  constexpr int kSpinsPerLook = 16;  // looking at the clock costs about as much as a pause
  std::chrono::steady_clock::time_point deadline;
  for (bool is_first = true;; is_first = false) {
    for (int spin = 0; spin < kSpinsPerLook; ++spin) {
      if (is_over()) return true;
      relax();
    }
    const auto now = std::chrono::steady_clock::now();
    if (is_first) {
      deadline = now + kSpinTime;
    } else if (now >= deadline) {
      return false;
    }
  }
}

}  // namespace phi3::cpu
