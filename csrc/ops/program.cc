#include "ops/program.h"

#include <algorithm>
#include <chrono>

#include "core/check.h"
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

void Program::add(std::function<bool()> call) {
  PHI3_CHECK(graph_ == nullptr, "program: a call on the CPU's memory among those of a CUDA device");
  calls_.push_back(std::move(call));
  ++size_;
}

void Program::queue(Device device, cuda::Graph::Call call) {
  PHI3_CHECK(calls_.empty(), "program: a call of a CUDA device among those on the CPU's memory");
  if (graph_ == nullptr) graph_ = std::make_unique<cuda::Graph>(device);
  PHI3_CHECK(device == graph_->device(), "program: calls of two CUDA devices, or streams");
  graph_->add(std::move(call));
  ++size_;
}

void Program::wait() const {
  if (graph_ != nullptr) graph_->wait();
}

bool Program::run() const {
  if (graph_ != nullptr) graph_->launch();
  return std::all_of(calls_.begin(), calls_.end(), [](const auto& call) { return call(); });
}

std::shared_ptr<BackgroundRun> BackgroundRun::start(const Program& program,
                                                    std::shared_ptr<const BackgroundRun> after) {
  auto run = std::make_shared<BackgroundRun>();
  if (program.graph() != nullptr) {
    program.run();
    run->graph_ = program.graph();
    return run;
  }
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
  if (graph_ != nullptr) {
    graph_->wait();
    return true;
  }
  is_over_.wait(0, std::memory_order_acquire);
  if (error_ != nullptr) std::rethrow_exception(error_);
  return is_complete_;
}

}  // namespace phi3::ops
