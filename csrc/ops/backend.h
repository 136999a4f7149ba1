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
  ops::Program* program = ops::Program::recorded();
  if (cuda::owns(device)) {
    if (program != nullptr) {
      program->queue(device, [cuda, params](Stream stream) { cuda(params, stream); });
    } else {
      const cuda::DeviceScope scope(device);
      cuda(params, device.stream);
    }
  } else if (program != nullptr) {
    program->add([cpu, params] {
      cpu(params);
      return true;
    });
  } else {
    cpu(params);
  }
}

}  // namespace phi3
