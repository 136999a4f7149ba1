#include "ops/packed.h"

namespace phi3 {

PackedWeight match_packed(Matcher& matcher,
                          const char* arg,
                          const TensorView& view,
                          DType dtype,
                          const Dim& rows,
                          const Dim& k,
                          std::source_location where) {
  matcher.check(k.value() > 0, where, arg, " has no columns");
  Dim panels("panels", (rows.value() + kPanelRows - 1) / kPanelRows);
  Dim lanes("panel rows", kPanelRows);
  if (dtype == DType::kBFloat16) {
    Dim pairs("column pairs", (k.value() + 1) / 2);
    Dim pair("pair", 2);
    matcher.match(arg, view, dtype, {&panels, &pairs, &lanes, &pair}, where);
  } else {
    Dim columns(k.name(), k.value());
    matcher.match(arg, view, dtype, {&panels, &columns, &lanes}, where);
  }
  return {view.data, panels.value(), k.value()};
}

}  // namespace phi3
