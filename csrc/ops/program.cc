#include "ops/program.h"

#include <algorithm>
#include <chrono>

#include "cpu/background.h"

namespace phi3::ops {
namespace {

thread_local Program* recorded_program = nullptr;

}  // namespace

Program::Recording::Recording(Program& program) : outer_(recorded_program) {
  recorded_program = &program;
}

Program::Recording::~Recording() { recorded_program = outer_; }

Program* Program::recorded() { return recorded_program; }

bool Program::run() const {
  return std::all_of(calls_.begin(), calls_.end(), [](const auto& call) { return call(); });
}

std::shared_ptr<BackgroundRun> BackgroundRun::start(const Program& program,
                                                    std::shared_ptr<const BackgroundRun> after) {
  auto run = std::make_shared<BackgroundRun>();
  cpu::run_in_background(
      [run, &program, after = std::move(after)] { run->run(program, after.get()); });
  return run;
}

void BackgroundRun::run(const Program& program, const BackgroundRun* after) {
  // What was started before is over: runs come one at a time.
  if (after == nullptr || after->is_complete_) {
    const auto start = std::chrono::steady_clock::now();
    try {
      is_complete_ = program.run();
    } catch (...) {
      error_ = std::current_exception();
    }
    seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  is_over_.store(1, std::memory_order_release);
  is_over_.notify_all();
}

bool BackgroundRun::wait() const {
  is_over_.wait(0, std::memory_order_acquire);
  if (error_ != nullptr) std::rethrow_exception(error_);
  return is_complete_;
}

}  // namespace phi3::ops
