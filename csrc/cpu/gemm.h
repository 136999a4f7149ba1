// Blocking of x Wᵀ over packed panels, shared by the ops that are GEMMs with different endings.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/params.h"
#include "cpu/isa.h"

namespace phi3::cpu {

inline constexpr std::int64_t kBlockRows =
    48;  // rows a task computes before its results are ended and stored

// Columns of one panel group.
inline constexpr std::int64_t kGroupColumns = std::int64_t{kTilePanels} * kLanes;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Cuts `size` into ceil(size / most) parts as even as possible; part `idx` starts here.
constexpr std::int64_t even_part(std::int64_t size, std::int64_t num_parts, std::int64_t idx) {
  return size * idx / num_parts;
}

// `elements` further than `base`, for an untyped pointer to model-dtype elements.
inline const void* offset(const void* base, DType dtype, std::int64_t elements) {
  return static_cast<const std::byte*>(base) + elements * dtype_size(dtype);
}
inline void* offset(void* base, DType dtype, std::int64_t elements) {
  return static_cast<std::byte*>(base) + elements * dtype_size(dtype);
}

// values[i] += bias[first + i], for a bias in the model dtype; nothing where there is none.
inline void add_bias(const Kernels& isa,
                     DType dtype,
                     const void* bias,
                     std::int64_t first,
                     float* values,
                     std::int64_t count) {
  if (bias == nullptr) return;
  const auto add = dtype == DType::kBFloat16 ? isa.add_bf16 : isa.add_f32;
  add(values, offset(bias, dtype, first), count);
}

// out[r][0 .. 16 num_panels) = x[r] · panels for num_rows <= kBlockRows rows; out float32.
class GemmBlock {
 public:
  GemmBlock(const Kernels& kernels, DType dtype)
      : gemm_(dtype == DType::kBFloat16 ? kernels.gemm_bf16 : kernels.gemm_f32),
        tile_rows_(kernels.tile_rows),
        dtype_(dtype) {}

  void operator()(const void* x,
                  std::int64_t x_stride,
                  std::int64_t num_rows,
                  const PackedWeight& weight,
                  std::int64_t first_panel,
                  std::int64_t num_panels,
                  float* out,
                  std::int64_t out_stride) const {
    const std::int64_t num_groups = ceil_div(num_panels, kTilePanels);
    for (std::int64_t group = 0; group < num_groups; ++group) {
      const std::int64_t begin = even_part(num_panels, num_groups, group);
      const std::int64_t end = even_part(num_panels, num_groups, group + 1);
      run_group(x,
                x_stride,
                num_rows,
                weight,
                first_panel + begin,
                end - begin,
                out + begin * kLanes,
                out_stride);
    }
  }

 private:
  // Hardware follows the few streams of a tile by itself; this only carries it over page ends.
  // Further ahead was measured slower.
  static constexpr std::int64_t kPrefetchBytes = 256;
  // A group's panels and the rows' activations of one k block fit in a 1 MB second-level cache
  // together. Blocks follow each other through exact float32 stores, so they do not change a bit.
  static constexpr std::int64_t kBlockK = 2048;

  void run_group(const void* x,
                 std::int64_t x_stride,
                 std::int64_t num_rows,
                 const PackedWeight& weight,
                 std::int64_t first_panel,
                 std::int64_t num_panels,
                 float* out,
                 std::int64_t out_stride) const {
    const std::int64_t num_tiles = ceil_div(num_rows, tile_rows_);
    const std::int64_t block_k = num_tiles == 1 ? weight.in_features : kBlockK;
    const std::int64_t panel_elements = weight.panel_elements(dtype_);
    for (std::int64_t k = 0; k < weight.in_features; k += block_k) {
      GemmTile tile{};
      tile.num_panels = static_cast<int>(num_panels);
      tile.accumulate = k > 0;
      tile.k = std::min(block_k, weight.in_features - k);
      tile.out_stride = out_stride;
      for (std::int64_t p = 0; p < num_panels; ++p) {
        tile.panels[p] =
            offset(weight.data, dtype_, (first_panel + p) * panel_elements + k * kPanelRows);
        tile.prefetch[p] = static_cast<const std::byte*>(tile.panels[p]) + kPrefetchBytes;
      }
      for (std::int64_t idx = 0; idx < num_tiles; ++idx) {
        const std::int64_t begin = even_part(num_rows, num_tiles, idx);
        const std::int64_t end = even_part(num_rows, num_tiles, idx + 1);
        tile.num_rows = static_cast<int>(end - begin);
        for (std::int64_t r = begin; r < end; ++r) {
          tile.x[r - begin] = offset(x, dtype_, r * x_stride + k);
        }
        tile.out = out + begin * out_stride;
        gemm_(tile);
      }
    }
  }

  void (*gemm_)(const GemmTile&);
  std::int64_t tile_rows_;
  DType dtype_;
};

}  // namespace phi3::cpu
