#include "cpu/background.h"

#include <pthread.h>

#include <atomic>
#include <deque>
#include <mutex>
#include <thread>

#include "cpu/float_mode.h"

namespace phi3::cpu {
namespace {

class Background {
 public:
  Background() {
    std::thread([this] { work(); }).detach();
  }

  void submit(std::function<void()> job) {
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    num_submitted_.fetch_add(1, std::memory_order_release);
    num_submitted_.notify_one();
  }

 private:
  [[noreturn]] void work() {
    const DefaultFloatMode float_mode;
    for (std::uint32_t num_taken = 0;; ++num_taken) {
      while (num_submitted_.load(std::memory_order_acquire) == num_taken) {
        num_submitted_.wait(num_taken, std::memory_order_acquire);
      }
      std::function<void()> job;
      {
        const std::lock_guard lock(mutex_);
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
      job();
    }
  }

  std::mutex mutex_;
  std::deque<std::function<void()>> jobs_;
  std::atomic<std::uint32_t> num_submitted_{0};
};

// Never destroyed: its thread may outlive static destructors.
std::atomic<Background*> background{nullptr};
std::mutex making;

void forget_background_in_child() { background.store(nullptr); }

Background& the_background() {
  if (Background* current = background.load(std::memory_order_acquire)) return *current;
  const std::lock_guard lock(making);
  static const bool is_registered = [] {
    // `making` is held across a fork, so that the child does not inherit it in the hands of a
    // thread that it has not.
    pthread_atfork([] { making.lock(); },
                   [] { making.unlock(); },
                   [] {
                     forget_background_in_child();
                     making.unlock();
                   });
    return true;
  }();
  static_cast<void>(is_registered);
  Background* current = background.load(std::memory_order_acquire);
  if (current == nullptr) {
    current = new Background;
    background.store(current, std::memory_order_release);
  }
  return *current;
}

}  // namespace

void run_in_background(std::function<void()> job) { the_background().submit(std::move(job)); }

}  // namespace phi3::cpu
