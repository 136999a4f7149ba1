// The ops over KV pages, bound as in ops.cc.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "bindings/register.h"
#include "bindings/tensor.h"
#include "ops/attention.h"
#include "ops/qkv_rope.h"

namespace py = pybind11;

namespace phi3::bindings {
namespace {

// Both or neither.
std::optional<KvScales> kv_scales(Arguments& arguments,
                                  TensorView (Arguments::*convert)(const char*, py::handle),
                                  py::handle k_scales,
                                  py::handle v_scales) {
  if (k_scales.is_none() && v_scales.is_none()) return std::nullopt;
  return KvScales{.k = (arguments.*convert)("k_scales", k_scales),
                  .v = (arguments.*convert)("v_scales", v_scales)};
}

std::optional<BlockSparse> block_sparse_of(
    const std::optional<std::array<std::int64_t, 4>>& fields) {
  if (!fields) return std::nullopt;
  const auto& [block_size, num_local_blocks, vertical_stride, head_step] = *fields;
  return BlockSparse{.block_size = block_size,
                     .num_local_blocks = num_local_blocks,
                     .vertical_stride = vertical_stride,
                     .head_step = head_step};
}

}  // namespace

void register_kv_ops(py::module_& module) {
  module.def(
      "qkv_rope",
      [](py::handle x,
         py::handle weight,
         py::handle positions,
         py::handle rope_sets,
         py::handle rope_table,
         py::handle slots,
         py::handle k_pages,
         py::handle v_pages,
         py::handle q_out,
         py::handle k_scales,
         py::handle v_scales,
         py::handle bias) {
        Arguments arguments("qkv_rope");
        const auto x_view = arguments.input("x", x);
        const auto weight_view = arguments.packed("weight", weight);
        const auto positions_view = arguments.input("positions", positions);
        const auto rope_sets_view = arguments.input("rope_sets", rope_sets);
        const auto rope_table_view = arguments.input("rope_table", rope_table);
        const auto slots_view = arguments.input("slots", slots);
        const auto k_pages_view = arguments.output("k_pages", k_pages);
        const auto v_pages_view = arguments.output("v_pages", v_pages);
        const auto q_out_view = arguments.output("q_out", q_out);
        const auto scales = kv_scales(arguments, &Arguments::output, k_scales, v_scales);
        const auto bias_view = arguments.optional_input("bias", bias);
        const py::gil_scoped_release release;
        ops::qkv_rope(x_view,
                      weight_view,
                      positions_view,
                      rope_sets_view,
                      rope_table_view,
                      slots_view,
                      k_pages_view,
                      v_pages_view,
                      q_out_view,
                      scales,
                      bias_view);
      },
      py::arg("x"),
      py::arg("weight"),
      py::arg("positions"),
      py::arg("rope_sets"),
      py::arg("rope_table"),
      py::arg("slots"),
      py::arg("k_pages"),
      py::arg("v_pages"),
      py::arg("q_out"),
      py::arg("k_scales") = py::none(),
      py::arg("v_scales") = py::none(),
      py::arg("bias") = py::none(),
      "Projects to q, k and v, rotates q and k, writes k and v into pages.");
  module.def(
      "attention",
      [](py::handle q,
         py::handle k_pages,
         py::handle v_pages,
         py::handle block_tables,
         py::handle query_starts,
         py::handle context_lens,
         py::handle out,
         py::handle k_scales,
         py::handle v_scales,
         std::int64_t window,
         float scale,
         std::optional<std::array<std::int64_t, 4>> block_sparse,
         py::handle workspace) {
        Arguments arguments("attention");
        const auto q_view = arguments.input("q", q);
        const auto k_pages_view = arguments.input("k_pages", k_pages);
        const auto v_pages_view = arguments.input("v_pages", v_pages);
        const auto block_tables_view = arguments.input("block_tables", block_tables);
        const auto query_starts_view = arguments.input("query_starts", query_starts);
        const auto context_lens_view = arguments.input("context_lens", context_lens);
        const auto out_view = arguments.output("out", out);
        const auto scales = kv_scales(arguments, &Arguments::input, k_scales, v_scales);
        const auto workspace_view = arguments.optional_output("workspace", workspace);
        const py::gil_scoped_release release;
        ops::attention(q_view,
                       k_pages_view,
                       v_pages_view,
                       block_tables_view,
                       query_starts_view,
                       context_lens_view,
                       out_view,
                       window,
                       scale,
                       scales,
                       block_sparse_of(block_sparse),
                       workspace_view);
      },
      py::arg("q"),
      py::arg("k_pages"),
      py::arg("v_pages"),
      py::arg("block_tables"),
      py::arg("query_starts"),
      py::arg("context_lens"),
      py::arg("out"),
      py::arg("k_scales") = py::none(),
      py::arg("v_scales") = py::none(),
      py::kw_only(),
      py::arg("window"),
      py::arg("scale"),
      py::arg("block_sparse") = py::none(),
      py::arg("workspace") = py::none(),
      "Paged causal attention.");
  module.def("attention_workspace_bytes",
             &ops::attention_workspace_bytes,
             py::arg("num_tokens"),
             py::arg("num_heads"),
             py::arg("head_dim"),
             py::arg("table_len"),
             "Bytes of workspace that attention makes use of on CUDA.");
}

}  // namespace phi3::bindings
