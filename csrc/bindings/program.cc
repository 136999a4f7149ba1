// Programs, recorded in a `with` block.
#include "ops/program.h"

#include <pybind11/pybind11.h>

#include <memory>
#include <vector>

#include "bindings/register.h"
#include "core/check.h"

namespace py = pybind11;

namespace phi3::bindings {
namespace {

// Destroyed with the GIL held, as what it keeps needs.
class PyProgram {
 public:
  void begin() {
    PHI3_CHECK(recording_ == nullptr, "program: it is being recorded already");
    recording_ = std::make_unique<ops::Program::Recording>(program_);
  }
  void end() { recording_.reset(); }

  void run() const {
    PHI3_CHECK(recording_ == nullptr, "program: it is still being recorded");
    const py::gil_scoped_release release;
    program_.run();
  }

  std::size_t size() const { return program_.size(); }

 private:
  ops::Program program_;
  std::unique_ptr<ops::Program::Recording> recording_;
};

}  // namespace

void register_program(py::module_& module) {
  py::class_<PyProgram>(module, "Program", "Op calls, checked once and run together.")
      .def(py::init<>())
      .def("__len__", &PyProgram::size)
      .def(
          "__enter__",
          [](PyProgram& self) { self.begin(); },
          "From here, ops that this thread calls are added instead of being run.")
      .def(
          "__exit__",
          [](PyProgram& self, const py::args&) { self.end(); },
          "To here; as often as wanted.")
      .def("run", &PyProgram::run, "Makes the calls, in one go and without the GIL.");
}

}  // namespace phi3::bindings
