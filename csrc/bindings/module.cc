#include "bindings/register.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "Torch-free kernels of phi3svc; see phi3svc.ops for their typed face.";
  phi3::bindings::register_errors(module);
  phi3::bindings::register_kv_ops(module);
  phi3::bindings::register_ops(module);
  phi3::bindings::register_packing(module);
  phi3::bindings::register_program(module);
  phi3::bindings::register_runtime(module);
  phi3::bindings::register_sampling(module);
}
