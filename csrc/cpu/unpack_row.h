// A row of a packed weight as the numbers that it stands for.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/params.h"

namespace phi3::cpu {

// (q - z) · S of an int4 panel, for one row and k.
inline int int4_value(WeightFormat format,
                      const std::uint8_t* panel,
                      std::int64_t lane,
                      std::int64_t k) {
  const std::uint8_t* block = panel + block_offset(format, k);
  const std::int64_t group = k % block_k(format) / group_size(format);
  int multiplier = 0;
  int zero = 8;
  if (format == WeightFormat::kInt4Group32) {
    const int both = block[group / 2 * kPanelRows + lane];
    multiplier = group % 2 == 0 ? both & 0x0f : both >> 4;
  } else {
    const int both = block[group * kPanelRows + lane];
    multiplier = both & 0x0f;
    zero = both >> 4;
  }
  const int numbers =
      block[kGroupBytes + k % block_k(format) / 8 * 4 * kPanelRows + lane * 4 + k % 4];
  return ((k % 8 < 4 ? numbers & 0x0f : numbers >> 4) - zero) * multiplier;
}

// out: [k]
inline void unpack_row(const PackedWeight& weight, std::int64_t row, float* out) {
  const auto* panel = reinterpret_cast<const std::uint8_t*>(weight.panel(row / kPanelRows));
  const std::int64_t lane = row % kPanelRows;
  const std::int64_t k = weight.in_features;
  if (weight.format == WeightFormat::kFloat32) {
    const auto* numbers = reinterpret_cast<const float*>(panel);
    for (std::int64_t i = 0; i < k; ++i) out[i] = numbers[i * kPanelRows + lane];
    return;
  }
  if (weight.format == WeightFormat::kBFloat16) {
    const auto* numbers = reinterpret_cast<const BFloat16*>(panel);
    for (std::int64_t i = 0; i < k; ++i) {
      out[i] = to_float(numbers[i / 2 * 2 * kPanelRows + lane * 2 + i % 2]);
    }
    return;
  }
  float scale = 0;
  std::memcpy(&scale, panel + lane * static_cast<std::int64_t>(sizeof scale), sizeof scale);
  for (std::int64_t i = 0; i < k; ++i) {
    const int value =
        weight.format == WeightFormat::kInt8
            ? panel[kRowScaleBytes + i / 4 * 4 * kPanelRows + lane * 4 + i % 4] - kWeightOffset
            : int4_value(weight.format, panel, lane, i);
    out[i] = scale * static_cast<float>(value);
  }
}

}  // namespace phi3::cpu
