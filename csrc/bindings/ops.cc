// One binding per op of the network without KV pages: tensors first, scalars by keyword. Contracts
// are in ops/*.h; phi3svc/ops.py is the typed face.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/register.h"
#include "bindings/tensor.h"
#include "ops/embedding.h"
#include "ops/head.h"
#include "ops/layer_norm.h"
#include "ops/linear.h"
#include "ops/mlp.h"
#include "ops/rms_norm.h"

namespace py = pybind11;

namespace phi3::bindings {

// In each op below: tensors are converted while the GIL is held, then it is released for the work;
// `Arguments`, declared first, gives tensors back after the GIL is held again.
void register_ops(py::module_& module) {
  module.def(
      "embedding",
      [](py::handle token_ids,
         py::handle table,
         py::handle out,
         std::int64_t vocab_size,
         float scale) {
        Arguments arguments("embedding");
        const auto token_ids_view = arguments.input("token_ids", token_ids);
        const auto table_view = arguments.packed("table", table);
        const auto out_view = arguments.output("out", out);
        const py::gil_scoped_release release;
        ops::embedding(token_ids_view, table_view, out_view, vocab_size, scale);
      },
      py::arg("token_ids"),
      py::arg("table"),
      py::arg("out"),
      py::kw_only(),
      py::arg("vocab_size"),
      py::arg("scale") = 1.0F,
      "Looks up token embeddings in a table [V, E] or a packed weight.");
  module.def(
      "rms_norm",
      [](py::handle h, py::handle weight, py::handle out, float eps) {
        Arguments arguments("rms_norm");
        const auto h_view = arguments.input("h", h);
        const auto weight_view = arguments.input("weight", weight);
        const auto out_view = arguments.output("out", out);
        const py::gil_scoped_release release;
        ops::rms_norm(h_view, weight_view, out_view, eps);
      },
      py::arg("h"),
      py::arg("weight"),
      py::arg("out"),
      py::kw_only(),
      py::arg("eps"),
      "Root-mean-square norm of each row.");
  module.def(
      "layer_norm",
      [](py::handle h, py::handle weight, py::handle bias, py::handle out, float eps) {
        Arguments arguments("layer_norm");
        const auto h_view = arguments.input("h", h);
        const auto weight_view = arguments.input("weight", weight);
        const auto bias_view = arguments.input("bias", bias);
        const auto out_view = arguments.output("out", out);
        const py::gil_scoped_release release;
        ops::layer_norm(h_view, weight_view, bias_view, out_view, eps);
      },
      py::arg("h"),
      py::arg("weight"),
      py::arg("bias"),
      py::arg("out"),
      py::kw_only(),
      py::arg("eps"),
      "Mean-and-variance norm of each row.");
  module.def(
      "linear",
      [](py::handle x, py::handle weight, py::handle out, py::handle bias, bool accumulate) {
        Arguments arguments("linear");
        const auto x_view = arguments.input("x", x);
        const auto weight_view = arguments.packed("weight", weight);
        const auto out_view = arguments.output("out", out);
        const auto bias_view = arguments.optional_input("bias", bias);
        const py::gil_scoped_release release;
        ops::linear(x_view, weight_view, out_view, bias_view, accumulate);
      },
      py::arg("x"),
      py::arg("weight"),
      py::arg("out"),
      py::arg("bias") = py::none(),
      py::kw_only(),
      py::arg("accumulate") = false,
      "x Wᵀ with bias or accumulation.");
  module.def(
      "mlp",
      [](py::handle x,
         py::handle gate_up,
         py::handle down,
         py::handle act,
         py::handle h,
         py::handle gate_up_bias,
         py::handle down_bias,
         std::optional<float> gegelu_limit,
         py::handle quantized_act) {
        Arguments arguments("mlp");
        const auto x_view = arguments.input("x", x);
        const auto gate_up_view = arguments.packed("gate_up", gate_up);
        const auto down_view = arguments.packed("down", down);
        const auto act_view = arguments.output("act", act);
        const auto h_view = arguments.output("h", h);
        const auto gate_up_bias_view = arguments.optional_input("gate_up_bias", gate_up_bias);
        const auto down_bias_view = arguments.optional_input("down_bias", down_bias);
        const auto quantized_act_view = arguments.optional_output("quantized_act", quantized_act);
        const py::gil_scoped_release release;
        ops::mlp(x_view,
                 gate_up_view,
                 down_view,
                 act_view,
                 h_view,
                 gate_up_bias_view,
                 down_bias_view,
                 gegelu_limit,
                 quantized_act_view);
      },
      py::arg("x"),
      py::arg("gate_up"),
      py::arg("down"),
      py::arg("act"),
      py::arg("h"),
      py::arg("gate_up_bias") = py::none(),
      py::arg("down_bias") = py::none(),
      py::kw_only(),
      py::arg("gegelu_limit") = py::none(),
      py::arg("quantized_act") = py::none(),
      "Adds the gated MLP of x to h.");
  module.def(
      "lm_head",
      [](py::handle h,
         py::handle rows,
         py::handle norm_weight,
         py::handle weight,
         py::handle normed,
         py::handle logits,
         py::handle norm_bias,
         py::handle bias,
         float eps,
         float scale) {
        Arguments arguments("lm_head");
        const auto h_view = arguments.input("h", h);
        const auto rows_view = arguments.input("rows", rows);
        const auto norm_weight_view = arguments.input("norm_weight", norm_weight);
        const auto weight_view = arguments.packed("weight", weight);
        const auto normed_view = arguments.output("normed", normed);
        const auto logits_view = arguments.output("logits", logits);
        const auto norm_bias_view = arguments.optional_input("norm_bias", norm_bias);
        const auto bias_view = arguments.optional_input("bias", bias);
        const py::gil_scoped_release release;
        ops::lm_head(h_view,
                     rows_view,
                     norm_weight_view,
                     weight_view,
                     normed_view,
                     logits_view,
                     eps,
                     norm_bias_view,
                     bias_view,
                     scale);
      },
      py::arg("h"),
      py::arg("rows"),
      py::arg("norm_weight"),
      py::arg("weight"),
      py::arg("normed"),
      py::arg("logits"),
      py::arg("norm_bias") = py::none(),
      py::arg("bias") = py::none(),
      py::kw_only(),
      py::arg("eps"),
      py::arg("scale") = 1.0F,
      "Final norm and vocabulary scores of some rows.");
  module.def(
      "classify_head",
      [](py::handle h,
         py::handle rows,
         py::handle norm_weight,
         py::handle weight,
         py::handle bias,
         py::handle normed,
         py::handle scores,
         py::handle norm_bias,
         float eps) {
        Arguments arguments("classify_head");
        const auto h_view = arguments.input("h", h);
        const auto rows_view = arguments.input("rows", rows);
        const auto norm_weight_view = arguments.input("norm_weight", norm_weight);
        const auto weight_view = arguments.packed("weight", weight);
        const auto bias_view = arguments.optional_input("bias", bias);
        const auto normed_view = arguments.output("normed", normed);
        const auto scores_view = arguments.output("scores", scores);
        const auto norm_bias_view = arguments.optional_input("norm_bias", norm_bias);
        const py::gil_scoped_release release;
        ops::classify_head(h_view,
                           rows_view,
                           norm_weight_view,
                           weight_view,
                           bias_view,
                           normed_view,
                           scores_view,
                           eps,
                           norm_bias_view);
      },
      py::arg("h"),
      py::arg("rows"),
      py::arg("norm_weight"),
      py::arg("weight"),
      py::arg("bias"),
      py::arg("normed"),
      py::arg("scores"),
      py::arg("norm_bias") = py::none(),
      py::kw_only(),
      py::arg("eps"),
      "Final norm and class scores of some rows.");
}

}  // namespace phi3::bindings
