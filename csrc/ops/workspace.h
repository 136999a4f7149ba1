// Memory that an op on CUDA may use meanwhile; ops on a CPU have their own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>

#include "core/match.h"
#include "core/params.h"

namespace phi3 {

// `view` must be uint8 [bytes], aligned to 16 bytes; none is no memory.
inline Workspace match_workspace(Matcher& matcher,
                                 const std::optional<TensorView>& view,
                                 std::source_location where = std::source_location::current()) {
  if (!view) return {};
  Dim bytes("bytes");
  matcher.match("workspace", *view, DType::kUInt8, {&bytes}, where);
  matcher.check(reinterpret_cast<std::uintptr_t>(view->data) % 16 == 0,
                where,
                "workspace is not aligned to 16 bytes");
  return {view->as<std::byte>(), bytes.value()};
}

struct NamedSize {
  const char* name;
  std::int64_t value;
};

// Sizes that a workspace is counted from: none negative, nor so many in all that its bytes could be
// more than 63 bits hold.
inline void check_sizes(const char* op,
                        std::initializer_list<NamedSize> sizes,
                        std::source_location where = std::source_location::current()) {
  std::int64_t most = std::int64_t{1} << 56;
  for (const auto& [name, value] : sizes) {
    if (value < 0 || value > most) [[unlikely]] {
      fail(where, op, ": ", name, " is ", value, ", expected 0..", most);
    }
    most /= std::max<std::int64_t>(value, 1);
  }
}

}  // namespace phi3
