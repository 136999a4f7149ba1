#include "ops/end_on.h"

#include <algorithm>
#include <span>

#include "core/match.h"
#include "ops/program.h"

namespace phi3::ops {
namespace {

using Ids = std::span<const std::int32_t>;

Ids ids_of(const TensorView& view) {
  return {view.as<const std::int32_t>(), static_cast<std::size_t>(view.size(0))};
}

}  // namespace

void end_on(const TensorView& token_ids, const TensorView& end_ids) {
  Matcher matcher("end_on");
  Dim rows("n");
  Dim ends("s");
  matcher.match("token_ids", token_ids, DType::kInt32, {&rows});
  matcher.match("end_ids", end_ids, DType::kInt32, {&ends});
  matcher.check(matcher.device().type == DeviceType::kCpu,
                std::source_location::current(),
                "token_ids is not in the CPU's memory");
  Program* program = Program::recorded();
  matcher.check(
      program != nullptr, std::source_location::current(), "no program is being recorded");
  program->add([drawn = ids_of(token_ids), ends = ids_of(end_ids)] {
    return std::none_of(drawn.begin(), drawn.end(), [&](std::int32_t id) {
      return id < 0 || std::find(ends.begin(), ends.end(), id) != ends.end();
    });
  });
}

}  // namespace phi3::ops
