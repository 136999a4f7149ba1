// Stands in for CUDA's header where kernels are compiled as C++ and run by the emulator: as much of
// the language and of the runtime as csrc/cuda uses.
#pragma once

#include "emulator/builtin.h"
#include "emulator/intrinsics.h"
#include "emulator/runtime_api.h"
