// From run-time values to compile-time ones, with lambdas.
#pragma once

#include <utility>

#include "core/check.h"
#include "core/dtype.h"

namespace phi3 {

// Calls fn.template operator()<float>() or <BFloat16>().
template <typename Fn>
decltype(auto) dispatch_model_dtype(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::kFloat32:
      return std::forward<Fn>(fn).template operator()<float>();
    case DType::kBFloat16:
      return std::forward<Fn>(fn).template operator()<BFloat16>();
    default:
      fail(std::source_location::current(), "dtype ", dtype_name(dtype), " is no model dtype");
  }
}

}  // namespace phi3
