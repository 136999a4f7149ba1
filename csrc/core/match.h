// Named-dimension argument checks: `rms_norm: weight dim 0 (E) is 32, expected 64`.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <source_location>

#include "core/check.h"
#include "core/tensor_view.h"

namespace phi3 {

// A named size. Unbound until the first tensor that has it is matched, or bound from the start.
class Dim {
 public:
  explicit Dim(const char* name) : name_(name) {}
  Dim(const char* name, std::int64_t value) : name_(name), value_(value) {}

  const char* name() const { return name_; }
  bool is_bound() const { return value_ >= 0; }
  std::int64_t value() const { return value_; }
  void bind(std::int64_t value) { value_ = value; }

 private:
  const char* name_;
  std::int64_t value_ = -1;
};

// Checks of one op's arguments; remembers the op's name and that all tensors share one device.
class Matcher {
 public:
  explicit Matcher(const char* op) : op_(op) {}

  using Where = std::source_location;

  // `view` must have exactly `dims`; an unbound Dim takes the size it meets. Dense in every dim.
  void match(const char* arg,
             const TensorView& view,
             DType dtype,
             std::initializer_list<Dim*> dims,
             Where where = Where::current()) {
    match_sizes(arg, view, dtype, dims, where);
    check(view.is_contiguous_from(0), where, arg, " is not contiguous");
  }

  // As `match`, but the first dimension may have any stride (rows of a wider tensor).
  void match_rows(const char* arg,
                  const TensorView& view,
                  DType dtype,
                  std::initializer_list<Dim*> dims,
                  Where where = Where::current()) {
    match_sizes(arg, view, dtype, dims, where);
    check(view.is_contiguous_from(1), where, arg, " is not contiguous within its rows");
  }

  // As `match_rows` for an output: no two rows may share memory.
  void match_out_rows(const char* arg,
                      const TensorView& view,
                      DType dtype,
                      std::initializer_list<Dim*> dims,
                      Where where = Where::current()) {
    match_rows(arg, view, dtype, dims, where);
    const std::int64_t stride = view.stride(0) < 0 ? -view.stride(0) : view.stride(0);
    check(view.size(0) <= 1 || stride >= view.size(1),
          where,
          arg,
          " has rows ",
          stride,
          " elements apart, expected at least ",
          view.size(1));
  }

  // The dtype of activations, weights and KV pages.
  DType model_dtype(const char* arg, const TensorView& view, Where where = Where::current()) {
    check(view.dtype == DType::kFloat32 || view.dtype == DType::kBFloat16,
          where,
          arg,
          " is ",
          dtype_name(view.dtype),
          ", expected float32 or bfloat16");
    return view.dtype;
  }

  // "<op>: <parts>" unless `ok`.
  template <typename... Parts>
  void check(bool ok, Where where, const Parts&... parts) const {
    if (!ok) [[unlikely]] {
      fail(where, op_, ": ", parts...);
    }
  }

  const char* op() const { return op_; }
  Device device() const { return device_; }

 private:
  void match_sizes(const char* arg,
                   const TensorView& view,
                   DType dtype,
                   std::initializer_list<Dim*> dims,
                   Where where) {
    check(view.dtype == dtype,
          where,
          arg,
          " is ",
          dtype_name(view.dtype),
          ", expected ",
          dtype_name(dtype));
    check(view.rank == static_cast<int>(dims.size()),
          where,
          arg,
          " has rank ",
          view.rank,
          ", expected ",
          dims.size());
    int idx = 0;
    for (Dim* dim : dims) {
      const std::int64_t size = view.size(idx);
      if (!dim->is_bound()) dim->bind(size);
      check(size == dim->value(),
            where,
            arg,
            " dim ",
            idx,
            " (",
            dim->name(),
            ") is ",
            size,
            ", expected ",
            dim->value());
      ++idx;
    }
    if (!has_device_) {
      device_ = view.device;
      has_device_ = true;
    }
    check(view.device == device_,
          where,
          arg,
          " is on ",
          device_name(view.device.type),
          ":",
          view.device.index,
          ", expected ",
          device_name(device_.type),
          ":",
          device_.index);
  }

  const char* op_;
  Device device_{};
  bool has_device_ = false;
};

}  // namespace phi3
