// Bindings of what changes the form of weights and activations.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/register.h"
#include "bindings/tensor.h"
#include "core/check.h"
#include "ops/pack.h"

namespace py = pybind11;

namespace phi3::bindings {
namespace {

void check_columns(const char* function, std::int64_t in_features) {
  constexpr std::int64_t kMost = std::int64_t{1} << 32;  // beyond it nothing else would hold
  PHI3_CHECK(in_features >= 1 && in_features <= kMost,
             function,
             ": in_features is ",
             in_features,
             ", expected 1..",
             kMost);
}

using Pack = void (*)(const TensorView&, const PackedView&, const std::optional<TensorView>&);
using Unpack = void (*)(const PackedView&, const TensorView&);

void register_pack(py::module_& module, const char* name, Pack pack, const char* doc) {
  module.def(
      name,
      [name, pack](py::handle weight, py::handle out, py::handle row_errors) {
        Arguments arguments(name);
        const auto weight_view = arguments.input("weight", weight);
        const auto out_view = arguments.packed_output("out", out);
        const auto row_errors_view = arguments.optional_output("row_errors", row_errors);
        const py::gil_scoped_release release;
        pack(weight_view, out_view, row_errors_view);
      },
      py::arg("weight"),
      py::arg("out"),
      py::arg("row_errors") = py::none(),
      doc);
}

void register_unpack(py::module_& module, const char* name, Unpack unpack) {
  module.def(
      name,
      [name, unpack](py::handle packed, py::handle out) {
        Arguments arguments(name);
        const auto packed_view = arguments.packed("packed", packed);
        const auto out_view = arguments.output("out", out);
        const py::gil_scoped_release release;
        unpack(packed_view, out_view);
      },
      py::arg("packed"),
      py::arg("out"),
      "The weights that a packed weight stands for.");
}

}  // namespace

void register_packing(py::module_& module) {
  register_pack(module, "pack_linear", ops::pack_linear, "Packs a weight into 16-row panels.");
  register_pack(module,
                "pack_gate_up",
                ops::pack_gate_up,
                "Packs the rows [gate|up] of an MLP into alternating panels.");
  module.def(
      "pack_qkv",
      [](py::handle weight,
         py::handle out,
         py::handle row_errors,
         std::int64_t num_rotated_heads,
         std::int64_t head_dim,
         std::int64_t rotary_dim) {
        Arguments arguments("pack_qkv");
        const auto weight_view = arguments.input("weight", weight);
        const auto out_view = arguments.packed_output("out", out);
        const auto row_errors_view = arguments.optional_output("row_errors", row_errors);
        const py::gil_scoped_release release;
        ops::pack_qkv(weight_view,
                      out_view,
                      {.num_rotated_heads = num_rotated_heads,
                       .head_dim = head_dim,
                       .rotary_dim = rotary_dim},
                      row_errors_view);
      },
      py::arg("weight"),
      py::arg("out"),
      py::arg("row_errors") = py::none(),
      py::kw_only(),
      py::arg("num_rotated_heads"),
      py::arg("head_dim"),
      py::arg("rotary_dim"),
      "Packs the rows q|k|v.");
  register_unpack(module, "unpack_linear", ops::unpack_linear);
  register_unpack(module, "unpack_gate_up", ops::unpack_gate_up);
  module.def(
      "quantize",
      [](py::handle x, py::handle out) {
        Arguments arguments("quantize");
        const auto x_view = arguments.input("x", x);
        const auto out_view = arguments.output("out", out);
        const py::gil_scoped_release release;
        ops::quantize(x_view, out_view);
      },
      py::arg("x"),
      py::arg("out"),
      "Rows of activations as int8.");
  module.def(
      "packed_panel_bytes",
      [](const std::string& stored, std::int64_t in_features) {
        const std::optional<WeightFormat> format = find_format(stored);
        PHI3_CHECK(format.has_value(), "packed_panel_bytes: format is '", stored, "', unknown");
        check_columns("packed_panel_bytes", in_features);
        return panel_bytes(*format, in_features);
      },
      py::arg("format"),
      py::arg("in_features"),
      "Bytes of a panel of 16 rows.");
  module.def(
      "quantized_row_bytes",
      [](std::int64_t in_features) {
        check_columns("quantized_row_bytes", in_features);
        return quantized_row_bytes(in_features);
      },
      py::arg("in_features"),
      "Bytes of a quantized row of activations.");
}

}  // namespace phi3::bindings
