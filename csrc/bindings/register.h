// The parts of the module, one per file.
#pragma once

#include <pybind11/pybind11.h>

namespace phi3::bindings {

void register_errors(pybind11::module_& module);
void register_kv_ops(pybind11::module_& module);
void register_packing(pybind11::module_& module);
void register_ops(pybind11::module_& module);
void register_program(pybind11::module_& module);
void register_runtime(pybind11::module_& module);
void register_sampling(pybind11::module_& module);

}  // namespace phi3::bindings
