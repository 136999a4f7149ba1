// Rows of a weight into 16-row panels; contract: PackedWeight in core/params.h.
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

#include "core/dispatch.h"
#include "cpu/cpu.h"
#include "cpu/parallel.h"

namespace phi3::cpu {
namespace {

template <typename T>
void pack_panel(const PackParams& params, std::int64_t first_row, std::int64_t num_rows, T* panel) {
  constexpr std::int64_t kPair = sizeof(T) == 2 ? 2 : 1;
  const std::int64_t k = params.in_features;
  const std::int64_t padded_k = (k + kPair - 1) / kPair * kPair;
  for (std::int64_t lane = 0; lane < kPanelRows; ++lane) {
    T* out = panel + lane * kPair;
    const T* row = static_cast<const T*>(params.weight) + (first_row + lane) * params.weight_stride;
    const std::int64_t valid = lane < num_rows ? k : 0;
    for (std::int64_t col = 0; col < padded_k; ++col) {
      const std::int64_t at = col / kPair * kPair * kPanelRows + col % kPair;
      out[at] = col < valid ? row[col] : T{};
    }
  }
}

// Weights are streamed end to end once per step: with huge pages the walk is a tenth faster. Only a
// hint, and only useful before the memory is first written.
void advise_huge_pages(void* data, std::int64_t num_bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t kHugePage = std::uintptr_t{2} << 20;
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t begin = (address + kHugePage - 1) / kHugePage * kHugePage;
  const std::uintptr_t end =
      (address + static_cast<std::uintptr_t>(num_bytes)) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  static_cast<void>(data);
  static_cast<void>(num_bytes);
#endif
}

template <typename T>
void pack_typed(const PackParams& params) {
  const std::int64_t num_matrices = params.is_gate_up ? 2 : 1;
  const std::int64_t rows = params.num_rows / num_matrices;
  const std::int64_t num_panels = (rows + kPanelRows - 1) / kPanelRows * num_matrices;
  const PackedWeight packed{params.out, num_panels, params.in_features};
  const std::int64_t panel_elements = packed.panel_elements(params.dtype);
  advise_huge_pages(params.out, num_panels * panel_elements * dtype_size(params.dtype));
  parallel_for(num_panels, tasks_worth_a_thread(panel_elements), [&](std::int64_t panel) {
    const std::int64_t first = panel / num_matrices * kPanelRows;
    const std::int64_t matrix = panel % num_matrices;
    pack_panel(params,
               matrix * rows + first,
               std::min(kPanelRows, rows - first),
               static_cast<T*>(params.out) + panel * panel_elements);
  });
}

}  // namespace

void pack(const PackParams& params) {
  dispatch_model_dtype(params.dtype, [&]<typename T>() { pack_typed<T>(params); });
}

}  // namespace phi3::cpu
