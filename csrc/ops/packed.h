// Checks of packed weights, the form in which ops take every GEMM weight.
#pragma once

#include <concepts>
#include <source_location>

#include "core/match.h"
#include "core/params.h"

namespace phi3 {

// A packed weight as it is passed in: its memory, and how it is stored. A tensor of floats says the
// latter by itself.
struct PackedView {
  template <std::convertible_to<TensorView> Floats>
  PackedView(const Floats& floats)
      : view(floats),
        format(view.dtype == DType::kBFloat16 ? WeightFormat::kBFloat16 : WeightFormat::kFloat32) {}
  PackedView(const TensorView& any_view, WeightFormat stored, std::int64_t k)
      : view(any_view), format(stored), in_features(k) {}

  TensorView view;
  WeightFormat format;
  std::int64_t in_features = 0;  // k of an integer format, whose panels hide it
};

// `packed` must hold exactly ceil(n / 16) panels of k columns, contiguous: float32 [panels, k, 16],
// bfloat16 [panels, ceil(k/2), 16, 2], or uint8 [panels, panel_bytes(format, k)]. `rows` (n) must
// be bound. A float weight must be of `dtype`.
//
// On CUDA: float32 or bfloat16 [16 · ceil(n/16), round_up(k, 16)], or uint8 with the bytes of fp8.
PackedWeight match_packed(Matcher& matcher,
                          const char* arg,
                          const PackedView& packed,
                          DType dtype,
                          const Dim& rows,
                          const Dim& k,
                          std::source_location where = std::source_location::current());

// Rows that are to meet `weight`: A, or quantized rows of `columns` numbers where its format is an
// integer one. Binds `tokens` and `columns`.
Rows match_activations(Matcher& matcher,
                       const char* arg,
                       const TensorView& view,
                       const PackedView& weight,
                       DType dtype,
                       Dim& tokens,
                       Dim& columns,
                       std::source_location where = std::source_location::current());

// Rows that n = 2F rows of gate and up have when packed.
std::int64_t gate_up_rows(const PackedView& packed, std::int64_t mlp_width);

// A: the dtype of the activations, where they are floats, else that of `other`.
DType activation_dtype(Matcher& matcher,
                       const char* arg,
                       const TensorView& view,
                       const PackedView& weight,
                       const char* other_arg,
                       const TensorView& other,
                       std::source_location where = std::source_location::current());

// `view` must hold quantized rows of so many numbers each, contiguous. Binds `tokens`.
void match_quantized(Matcher& matcher,
                     const char* arg,
                     const TensorView& view,
                     Dim& tokens,
                     const Dim& columns,
                     std::source_location where = std::source_location::current());

}  // namespace phi3
