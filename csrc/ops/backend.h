// Choice of a backend by the device of the tensors.
#pragma once

#include "core/tensor_view.h"
#include "ops/program.h"

namespace phi3 {

// Runs an op whose arguments were checked, or adds it to the program that is being recorded.
template <typename Params>
void run_on(Device device,
            const Params& params,
            void (*cpu)(const Params&),
            void (*cuda)(const Params&)) {
  const auto run = device.type == DeviceType::kCuda ? cuda : cpu;
  if (ops::Program* program = ops::Program::recorded()) {
    program->add([run, params] {
      run(params);
      return true;
    });
  } else {
    run(params);
  }
}

}  // namespace phi3
