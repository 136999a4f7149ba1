// Which kernel table the CPU backend uses.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cpu/kernels/kernels.h"

namespace phi3::cpu {

// The active table. At first the one PHI3SVC_CPU_ISA names, else the best this CPU runs. Throws
// Error when the variable names an ISA that is unknown or that this CPU lacks.
const Kernels& kernels();

// ISAs that were compiled in and that this CPU runs, worst first.
std::vector<std::string> available_isas();

// Throws Error naming what is available. Affects ops that start later.
void set_isa(std::string_view name);

}  // namespace phi3::cpu
