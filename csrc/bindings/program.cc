// Programs, recorded in a `with` block, and their runs in the background.
#include "ops/program.h"

#include <pybind11/pybind11.h>

#include <memory>

#include "bindings/register.h"
#include "bindings/tensor.h"
#include "core/check.h"
#include "ops/copy.h"
#include "ops/end_on.h"

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

  const ops::Program& recorded() const {
    PHI3_CHECK(recording_ == nullptr, "program: it is still being recorded");
    return program_;
  }

  std::size_t size() const { return program_.size(); }

 private:
  ops::Program program_;
  std::unique_ptr<ops::Program::Recording> recording_;
};

// Keeps its program, and waits for the end of the run before it lets go; a program on a device does
// that by itself.
class PyRun {
 public:
  PyRun(py::object program, const PyRun* after)
      : program_(std::move(program)),
        run_(ops::BackgroundRun::start(program_.cast<const PyProgram&>().recorded(),
                                       after != nullptr ? after->run_ : nullptr)) {}
  ~PyRun() {
    if (run_->is_on_device()) return;
    const py::gil_scoped_release release;
    try {
      run_->wait();
    } catch (const std::exception&) {
      // Nobody asked.
    }
  }
  PyRun(const PyRun&) = delete;
  PyRun& operator=(const PyRun&) = delete;

  bool wait() const {
    const py::gil_scoped_release release;
    return run_->wait();
  }
  double seconds() const { return run_->seconds(); }

 private:
  py::object program_;
  std::shared_ptr<ops::BackgroundRun> run_;
};

}  // namespace

void register_program(py::module_& module) {
  py::class_<PyRun>(module, "Run", "A program's run in the background.")
      .def("wait",
           &PyRun::wait,
           "Waits for its end. False if it was ended by one of its calls, or not begun.")
      .def_property_readonly("seconds", &PyRun::seconds, "How long it took, once waited for.");
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
      .def(
          "run",
          [](const PyProgram& self) {
            const ops::Program& program = self.recorded();
            const py::gil_scoped_release release;
            return program.run();
          },
          "Makes the calls, in one go and without the GIL. False if one of them ended the run.")
      .def(
          "wait",
          [](const PyProgram& self) {
            const ops::Program& program = self.recorded();
            const py::gil_scoped_release release;
            program.wait();
          },
          "Waits for what was queued on a CUDA device; on a CPU nothing is.")
      .def(
          "start",
          [](py::object self, const PyRun* after) {
            return std::make_unique<PyRun>(std::move(self), after);
          },
          py::arg("after") = py::none(),
          "Runs it on another thread, or its CUDA device, behind what was started before.");
  module.def(
      "copy",
      [](py::handle source, py::handle out) {
        Arguments arguments("copy");
        const auto source_view = arguments.input("source", source);
        const auto out_view = arguments.output("out", out);
        const py::gil_scoped_release release;
        ops::copy(source_view, out_view);
      },
      py::arg("source"),
      py::arg("out"),
      "Copies a tensor, also between a CPU's memory and a device's.");
  module.def(
      "end_on",
      [](py::handle token_ids, py::handle end_ids) {
        Arguments arguments("end_on");
        const auto token_ids_view = arguments.input("token_ids", token_ids);
        const auto end_ids_view = arguments.input("end_ids", end_ids);
        ops::end_on(token_ids_view, end_ids_view);
      },
      py::arg("token_ids"),
      py::arg("end_ids"),
      "Ends the run of the program being recorded if a token is broken or among some.");
}

}  // namespace phi3::bindings
