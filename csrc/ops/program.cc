#include "ops/program.h"

namespace phi3::ops {
namespace {

thread_local Program* recorded_program = nullptr;

}  // namespace

Program::Recording::Recording(Program& program) : outer_(recorded_program) {
  recorded_program = &program;
}

Program::Recording::~Recording() { recorded_program = outer_; }

Program* Program::recorded() { return recorded_program; }

void Program::run() const {
  for (const std::function<void()>& call : calls_) call();
}

}  // namespace phi3::ops
