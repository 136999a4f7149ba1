// Choice of a backend by the device of the tensors.
#pragma once

#include "core/tensor_view.h"
#include "cuda/cuda.h"
#include "ops/program.h"

namespace phi3 {

// Runs an op whose arguments were checked, or adds it to the program that is being recorded.
template <typename Params>
void run_on(Device device,
            const Params& params,
            void (*cpu)(const Params&),
            void (*cuda)(const Params&, Stream)) {
  const auto run = [cpu, cuda, device, params] {
    if (cuda::owns(device)) {
      cuda(params, device.stream);
    } else {
      cpu(params);
    }
    return true;
  };
  if (ops::Program* program = ops::Program::recorded()) {
    program->add(run);
  } else {
    run();
  }
}

}  // namespace phi3
