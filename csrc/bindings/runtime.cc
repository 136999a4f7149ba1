#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

#include "bindings/register.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cuda/cuda.h"
#include "cuda/kernel_policy.h"

namespace py = pybind11;

namespace phi3::bindings {
namespace {

std::map<std::string, std::string> build_info() {
  std::string isas;
  for (const std::string& name : cpu::available_isas()) {
    if (!isas.empty()) isas += " ";
    isas += name;
  }
  return {
      {"version", PHI3SVC_VERSION},
      {"compiler", PHI3SVC_COMPILER},
      {"build_type", PHI3SVC_BUILD_TYPE},
      {"cuda", cuda::built_for()},
      {"isas", isas},
  };
}

}  // namespace

void register_runtime(py::module_& module) {
  module.def(
      "isa", [] { return std::string(cpu::kernels().name); }, "Name of the active CPU kernels.");
  module.def("available_isas", &cpu::available_isas, "ISAs this build and CPU have, worst first.");
  module.def("set_isa", &cpu::set_isa, py::arg("name"), "Chooses the CPU kernels by name.");
  module.def("set_num_threads",
             &cpu::set_num_threads,
             py::arg("num_threads"),
             "Threads that ops use, 1..256; 0 for one per CPU that the process may use.");
  module.def("num_threads", &cpu::num_threads, "Threads that ops use.");
  module.def("set_pin_threads",
             &cpu::set_pin_threads,
             py::arg("pin"),
             "Whether each worker is tied to a CPU of its own; the calling thread never is.");
  module.def("pin_threads", &cpu::pin_threads, "Whether workers are tied to CPUs.");
  module.def(
      "backend",
      [](const std::string& device_type) {
        const DeviceType type = device_type == "cuda" ? DeviceType::kCuda : DeviceType::kCpu;
        return std::string(cuda::owns({.type = type}) ? "cuda" : "cpu");
      },
      py::arg("device_type"),
      "Which backend runs ops on the tensors of a device.");
  module.def(
      "set_kernel_policy",
      &cuda::set_kernel_policy,
      py::arg("name"),
      "Whether GEMMs and the attention of prompts on CUDA are \"deterministic\" or \"free\".");
  module.def("build_info", &build_info, "How this extension was built.");
}

}  // namespace phi3::bindings
