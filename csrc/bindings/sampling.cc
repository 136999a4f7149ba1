// Bindings of the ops that read logits, in the manner of ops.cc.
#include <pybind11/pybind11.h>

#include <optional>

#include "bindings/register.h"
#include "bindings/tensor.h"
#include "ops/logprobs.h"
#include "ops/sample.h"

namespace py = pybind11;

namespace phi3::bindings {

void register_sampling(py::module_& module) {
  module.def(
      "sample",
      [](py::handle logits,
         py::handle temperature,
         py::handle top_k,
         py::handle top_p,
         py::handle seeds,
         py::handle sequence_indices,
         py::handle positions,
         py::handle out_ids,
         py::handle out_logprobs,
         py::handle min_p,
         py::handle typical_p,
         py::handle repetition,
         py::handle presence,
         py::handle frequency,
         py::handle seen_starts,
         py::handle seen_ids,
         py::handle seen_counts,
         py::handle bias_starts,
         py::handle bias_ids,
         py::handle bias_values,
         py::handle workspace) {
        Arguments arguments("sample");
        const auto logits_view = arguments.input("logits", logits);
        const auto temperature_view = arguments.input("temperature", temperature);
        const auto top_k_view = arguments.input("top_k", top_k);
        const auto top_p_view = arguments.input("top_p", top_p);
        const auto seeds_view = arguments.input("seeds", seeds);
        const auto sequence_indices_view = arguments.input("sequence_indices", sequence_indices);
        const auto positions_view = arguments.input("positions", positions);
        const auto out_ids_view = arguments.output("out_ids", out_ids);
        const auto out_logprobs_view = arguments.output("out_logprobs", out_logprobs);
        const auto min_p_view = arguments.optional_input("min_p", min_p);
        const auto typical_p_view = arguments.optional_input("typical_p", typical_p);
        std::optional<ops::SamplePenalties> penalties;
        if (!repetition.is_none()) {
          penalties = {.repetition = arguments.input("repetition", repetition),
                       .presence = arguments.input("presence", presence),
                       .frequency = arguments.input("frequency", frequency),
                       .starts = arguments.input("seen_starts", seen_starts),
                       .token_ids = arguments.input("seen_ids", seen_ids),
                       .counts = arguments.input("seen_counts", seen_counts)};
        }
        std::optional<ops::SampleBiases> biases;
        if (!bias_starts.is_none()) {
          biases = {.starts = arguments.input("bias_starts", bias_starts),
                    .token_ids = arguments.input("bias_ids", bias_ids),
                    .values = arguments.input("bias_values", bias_values)};
        }
        const auto workspace_view = arguments.optional_output("workspace", workspace);
        const py::gil_scoped_release release;
        ops::sample(logits_view,
                    temperature_view,
                    top_k_view,
                    top_p_view,
                    seeds_view,
                    sequence_indices_view,
                    positions_view,
                    out_ids_view,
                    out_logprobs_view,
                    min_p_view,
                    typical_p_view,
                    penalties,
                    biases,
                    workspace_view);
      },
      py::arg("logits"),
      py::arg("temperature"),
      py::arg("top_k"),
      py::arg("top_p"),
      py::arg("seeds"),
      py::arg("sequence_indices"),
      py::arg("positions"),
      py::arg("out_ids"),
      py::arg("out_logprobs"),
      py::kw_only(),
      py::arg("min_p") = py::none(),
      py::arg("typical_p") = py::none(),
      py::arg("repetition") = py::none(),
      py::arg("presence") = py::none(),
      py::arg("frequency") = py::none(),
      py::arg("seen_starts") = py::none(),
      py::arg("seen_ids") = py::none(),
      py::arg("seen_counts") = py::none(),
      py::arg("bias_starts") = py::none(),
      py::arg("bias_ids") = py::none(),
      py::arg("bias_values") = py::none(),
      py::arg("workspace") = py::none(),
      "Draws one token per row.");
  module.def("sample_workspace_bytes",
             &ops::sample_workspace_bytes,
             py::arg("num_rows"),
             py::arg("vocab_size"),
             "Bytes of workspace that sample needs on CUDA where rows have penalties or biases.");
  module.def(
      "logprobs",
      [](py::handle logits,
         py::handle token_ids,
         py::handle out_logprobs,
         py::handle out_top_ids,
         py::handle out_top_logprobs) {
        Arguments arguments("logprobs");
        const auto logits_view = arguments.input("logits", logits);
        const auto token_ids_view = arguments.input("token_ids", token_ids);
        const auto out_logprobs_view = arguments.output("out_logprobs", out_logprobs);
        const auto out_top_ids_view = arguments.output("out_top_ids", out_top_ids);
        const auto out_top_logprobs_view = arguments.output("out_top_logprobs", out_top_logprobs);
        const py::gil_scoped_release release;
        ops::logprobs(logits_view,
                      token_ids_view,
                      out_logprobs_view,
                      out_top_ids_view,
                      out_top_logprobs_view);
      },
      py::arg("logits"),
      py::arg("token_ids"),
      py::arg("out_logprobs"),
      py::arg("out_top_ids"),
      py::arg("out_top_logprobs"),
      "Log-probabilities of given and of the likeliest tokens.");
}

}  // namespace phi3::bindings
