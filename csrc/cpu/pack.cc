// Rows of a weight into 16-row panels and back; contract: weight_format.h.
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "core/dispatch.h"
#include "cpu/cpu.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/unpack_row.h"

namespace phi3::cpu {
namespace {

// The rows of one panel.
struct PanelRows {
  std::int64_t first, count;
};

// Panels of a gate_up weight alternate between its two halves.
class PanelOrder {
 public:
  PanelOrder(std::int64_t num_rows, bool is_gate_up)
      : num_matrices_(is_gate_up ? 2 : 1), rows_(num_rows / num_matrices_) {}

  std::int64_t num_panels() const { return (rows_ + kPanelRows - 1) / kPanelRows * num_matrices_; }
  PanelRows rows_of(std::int64_t panel) const {
    const std::int64_t first = panel / num_matrices_ * kPanelRows;
    return {panel % num_matrices_ * rows_ + first, std::min(kPanelRows, rows_ - first)};
  }

 private:
  std::int64_t num_matrices_;
  std::int64_t rows_;  // of one of them
};

template <typename T>
const T* row_of(const PackParams& params, std::int64_t row) {
  return static_cast<const T*>(params.weight) + row * params.weight_stride;
}

template <typename T>
void copy_panel(const PackParams& params, PanelRows rows, T* panel) {
  constexpr std::int64_t kPair = sizeof(T) == 2 ? 2 : 1;
  const std::int64_t k = params.in_features;
  const T* from[kPanelRows];
  for (std::int64_t lane = 0; lane < kPanelRows; ++lane) {
    from[lane] = row_of<T>(params, rows.first + std::min(lane, rows.count - 1));
  }
  for (std::int64_t col = 0; col + kPair <= k; col += kPair) {
    T* out = panel + col * kPanelRows;
    for (std::int64_t lane = 0; lane < kPanelRows; ++lane) {
      std::memcpy(out + lane * kPair, from[lane] + col, kPair * sizeof(T));
    }
  }
  if (k % kPair != 0) {
    T* out = panel + (k - 1) * kPanelRows;
    for (std::int64_t lane = 0; lane < kPanelRows; ++lane) {
      out[lane * kPair] = from[lane][k - 1];
      out[lane * kPair + 1] = T{};
    }
  }
  for (std::int64_t lane = rows.count; lane < kPanelRows; ++lane) {
    for (std::int64_t col = 0; col < round_up(k, kPair); col += kPair) {
      std::memset(panel + col * kPanelRows + lane * kPair, 0, kPair * sizeof(T));
    }
  }
}

// The power of two below the largest of a row, where it has one: divided by it, no square or sum of
// weights leaves the range of float.
template <typename T>
float unit_of(const T* row, std::int64_t k) {
  std::int32_t largest = 0;  // bits: those of finite magnitudes are in the same order
  for (std::int64_t col = 0; col < k; ++col) {
    largest = std::max(largest, std::bit_cast<std::int32_t>(to_float(row[col])) & 0x7fffffff);
  }
  const auto magnitude = std::bit_cast<float>(largest);
  if (magnitude == 0.0F || !std::isfinite(magnitude)) return 1.0F;
  constexpr int kLowest = std::numeric_limits<float>::min_exponent - 1;  // 1 / unit is finite
  return std::ldexp(1.0F, std::max(std::ilogb(magnitude), kLowest));
}

template <typename T>
void quantize_panel(const PackParams& params, PanelRows rows, std::uint8_t* panel) {
  const std::int64_t k = padded_k(params.format, params.in_features);
  std::vector<float> weights(static_cast<std::size_t>(k * kPanelRows));         // [k][16]
  std::vector<float> workspace(static_cast<std::size_t>(k / 32 * kPanelRows));  // [k / 32][16]
  float units[kPanelRows] = {};
  for (std::int64_t lane = 0; lane < rows.count; ++lane) {
    const T* row = row_of<T>(params, rows.first + lane);
    float* out = weights.data() + lane;
    units[lane] = unit_of(row, params.in_features);
    const float factor = 1.0F / units[lane];
    for (std::int64_t col = 0; col < params.in_features; ++col) {
      out[col * kPanelRows] = to_float(row[col]) * factor;
    }
  }
  float errors[kPanelRows];
  float magnitudes[kPanelRows];
  kernels().quantize_panel(
      params.format, weights.data(), k, workspace.data(), panel, errors, magnitudes);
  float scales[kPanelRows];
  std::memcpy(scales, panel, sizeof scales);
  for (std::int64_t lane = 0; lane < kPanelRows; ++lane) scales[lane] *= units[lane];
  std::memcpy(panel, scales, sizeof scales);
  if (params.row_errors == nullptr) return;
  const auto count = static_cast<float>(params.in_features);
  for (std::int64_t lane = 0; lane < rows.count; ++lane) {
    const float mean = magnitudes[lane] / count;
    const float error = std::sqrt(errors[lane] / count);
    params.row_errors[rows.first + lane] = error == 0.0F ? 0.0F : error / mean;
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

}  // namespace

void pack(const PackParams& params) {
  const PanelOrder order(params.num_rows, params.rows == PackedRows::kGateUp);
  const std::int64_t bytes = panel_bytes(params.format, params.in_features);
  advise_huge_pages(params.out, order.num_panels() * bytes);
  const std::int64_t cost = params.in_features * kPanelRows;
  parallel_for(order.num_panels(), tasks_worth_a_thread(cost), [&](std::int64_t panel) {
    auto* out = static_cast<std::uint8_t*>(params.out) + panel * bytes;
    const PanelRows rows = order.rows_of(panel);
    dispatch_model_dtype(params.dtype, [&]<typename T>() {
      if (is_float(params.format)) {
        copy_panel(params, rows, reinterpret_cast<T*>(out));
      } else {
        quantize_panel<T>(params, rows, out);
      }
    });
  });
}

void unpack(const UnpackParams& params) {
  const PanelOrder order(params.num_rows, params.rows == PackedRows::kGateUp);
  const std::int64_t k = params.weight.in_features;
  parallel_for(order.num_panels(), tasks_worth_a_thread(k * kPanelRows), [&](std::int64_t panel) {
    const PanelRows rows = order.rows_of(panel);
    for (std::int64_t lane = 0; lane < rows.count; ++lane) {
      unpack_row(params.weight, panel * kPanelRows + lane, params.out + (rows.first + lane) * k);
    }
  });
}

}  // namespace phi3::cpu
