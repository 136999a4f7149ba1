#include "bindings/register.h"
#include "core/check.h"

namespace phi3::bindings {

void register_errors(pybind11::module_& module) {
  pybind11::register_exception<Error>(module, "Error", PyExc_ValueError);
}

}  // namespace phi3::bindings
