// Choice of a backend by the device of the tensors.
#pragma once

#include "core/tensor_view.h"

namespace phi3 {

template <typename Params>
void run_on(Device device,
            const Params& params,
            void (*cpu)(const Params&),
            void (*cuda)(const Params&)) {
  (device.type == DeviceType::kCuda ? cuda : cpu)(params);
}

}  // namespace phi3
