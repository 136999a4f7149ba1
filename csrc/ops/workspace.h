// Memory that an op on CUDA may use meanwhile; ops on a CPU have their own.
#pragma once

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

}  // namespace phi3
