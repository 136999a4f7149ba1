// Python tensors as TensorViews.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <optional>

#include "bindings/dlpack.h"
#include "ops/packed.h"

namespace phi3::bindings {

// The tensors of one call. Converts them while the GIL is held and keeps their memory alive until
// destroyed, which must happen with the GIL held as well. A call that is recorded gives them to its
// program to keep.
//
// A tensor is anything with DLPack's C exchange API (torch.Tensor) or its `__dlpack__`
// (numpy.ndarray). Anything else is a TypeError; an unsupported dtype, rank or device, a misaligned
// pointer, or an output that is read-only is an Error.
class Arguments {
 public:
  explicit Arguments(const char* op) : op_(op) {}
  ~Arguments();
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

  TensorView input(const char* name, pybind11::handle object);
  std::optional<TensorView> optional_input(const char* name, pybind11::handle object);
  TensorView output(const char* name, pybind11::handle object);
  std::optional<TensorView> optional_output(const char* name, pybind11::handle object);
  // A packed weight: a tensor of floats, or (tensor, name of the format, columns).
  PackedView packed(const char* name, pybind11::handle object);
  PackedView packed_output(const char* name, pybind11::handle object);

 private:
  static constexpr std::size_t kMaxTensors = 24;

  PackedView convert_packed(const char* name, pybind11::handle object, bool is_output);
  TensorView convert(const char* name, pybind11::handle object, bool is_output);
  TensorView borrow(const char* name, pybind11::handle object, bool is_output);
  TensorView view_of(const char* name, const dlpack::Tensor& tensor) const;

  const char* op_;
  std::size_t num_capsules_ = 0;
  std::array<pybind11::object, kMaxTensors> capsules_;  // own what `__dlpack__` returned
};

}  // namespace phi3::bindings
