// Blocking of x Wᵀ over packed panels, shared by the ops that are GEMMs with different endings.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/params.h"
#include "cpu/isa.h"
#include "cpu/partition.h"

namespace phi3::cpu {

inline constexpr std::int64_t kBlockRows =
    96;  // rows a task computes before its results are ended and stored

// Columns of one panel group.
inline constexpr std::int64_t kGroupColumns = std::int64_t{kTilePanels} * kLanes;

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
  GemmBlock(const Kernels& isa, const PackedWeight& weight)
      : isa_(isa), weight_(weight), padded_k_(padded_k(weight.format, weight.in_features)) {}

  // x: the first of the rows.
  void operator()(Rows x,
                  std::int64_t num_rows,
                  std::int64_t first_panel,
                  std::int64_t num_panels,
                  float* out,
                  std::int64_t out_stride) const {
    const std::int64_t num_groups = ceil_div(num_panels, kTilePanels);
    for (std::int64_t group = 0; group < num_groups; ++group) {
      const std::int64_t begin = even_part(num_panels, num_groups, group);
      const std::int64_t end = even_part(num_panels, num_groups, group + 1);
      float* group_out = out + begin * kLanes;
      if (is_float(weight_.format)) {
        run_floats(x, num_rows, first_panel + begin, end - begin, group_out, out_stride);
      } else {
        run_integers(x, num_rows, first_panel + begin, end - begin, group_out, out_stride);
      }
    }
  }

 private:
  // Hardware follows the few streams of a tile by itself; this only carries it over page ends.
  // Further ahead was measured slower.
  static constexpr std::int64_t kFloatPrefetchBytes = 256;
  // A group's panels and the rows' activations of one k block fit in a 1 MB second-level cache
  // together. Blocks follow each other through exact stores, so they do not change a bit.
  static constexpr std::int64_t kFloatBlockK = 2048;
  static constexpr std::int64_t kIntegerBlockK = 1024;
  // With more rows it pays to turn int4 into int8 once and for all of them.
  static constexpr std::int64_t kMostDirectRows = kIntegerTileRows;

  // The numbers of a panel from k on.
  const std::byte* numbers(std::int64_t panel, std::int64_t k) const {
    return weight_.panel(panel) + numbers_offset(weight_.format, weight_.in_features) +
           number_bytes(weight_.format, k);
  }

  void run_floats(Rows x,
                  std::int64_t num_rows,
                  std::int64_t first_panel,
                  std::int64_t num_panels,
                  float* out,
                  std::int64_t out_stride) const {
    const bool is_bf16 = weight_.format == WeightFormat::kBFloat16;
    const auto gemm = is_bf16 ? isa_.gemm_bf16 : isa_.gemm_f32;
    const std::int64_t num_tiles = ceil_div(num_rows, isa_.tile_rows);
    const std::int64_t block_k = num_tiles == 1 ? weight_.in_features : kFloatBlockK;
    for (std::int64_t k = 0; k < weight_.in_features; k += block_k) {
      GemmTile tile{};
      tile.num_panels = static_cast<int>(num_panels);
      tile.accumulate = k > 0;
      tile.k = std::min(block_k, weight_.in_features - k);
      tile.out_stride = out_stride;
      for (std::int64_t p = 0; p < num_panels; ++p) {
        tile.panels[p] = numbers(first_panel + p, k);
        tile.prefetch[p] = static_cast<const std::byte*>(tile.panels[p]) + kFloatPrefetchBytes;
      }
      for (std::int64_t idx = 0; idx < num_tiles; ++idx) {
        const std::int64_t begin = even_part(num_rows, num_tiles, idx);
        const std::int64_t end = even_part(num_rows, num_tiles, idx + 1);
        tile.num_rows = static_cast<int>(end - begin);
        for (std::int64_t r = begin; r < end; ++r) {
          tile.x[r - begin] = static_cast<const std::byte*>(x.at(r)) + k * (is_bf16 ? 2 : 4);
        }
        tile.out = out + begin * out_stride;
        gemm(tile);
      }
    }
  }

  void run_integers(Rows x,
                    std::int64_t num_rows,
                    std::int64_t first_panel,
                    std::int64_t num_panels,
                    float* out,
                    std::int64_t out_stride) const {
    alignas(64) std::int32_t sums[kBlockRows * kGroupColumns];
    alignas(64) ExpandedGroup groups[kTilePanels][kIntegerBlockK / kExpandedGroupK];
    alignas(64) std::uint8_t expanded[kTilePanels][kIntegerBlockK * kLanes];
    const bool is_u4 = is_int4(weight_.format);
    const bool is_expanded = is_u4 && num_rows > kMostDirectRows;
    const auto gemm = is_u4 && !is_expanded ? isa_.gemm_u4 : isa_.gemm_u8;
    const std::int64_t tile_rows =
        num_rows <= kIntegerTileRows ? num_rows : std::int64_t{isa_.integer_tile_rows};
    const std::int64_t num_tiles = ceil_div(num_rows, tile_rows);
    const std::int64_t block_k = is_u4 || num_tiles > 1 ? kIntegerBlockK : padded_k_;
    for (std::int64_t k = 0; k < padded_k_; k += block_k) {
      IntegerTile tile{};
      tile.num_panels = static_cast<int>(num_panels);
      tile.accumulate = k > 0;
      tile.k = std::min(block_k, padded_k_ - k);
      tile.out_stride = kGroupColumns;
      for (std::int64_t p = 0; p < num_panels; ++p) {
        tile.panels[p] = numbers(first_panel + p, k);
        if (!is_u4) continue;
        const auto* from = reinterpret_cast<const std::uint8_t*>(
            weight_.panel(first_panel + p) + kRowScaleBytes + group_bytes(weight_.format, k));
        isa_.expand_groups(weight_.format, from, tile.k, groups[p]);
        tile.groups[p] = groups[p];
        if (!is_expanded) continue;
        isa_.expand_u4(
            static_cast<const std::uint8_t*>(tile.panels[p]), groups[p], tile.k, expanded[p]);
        tile.panels[p] = expanded[p];
      }
      for (std::int64_t idx = 0; idx < num_tiles; ++idx) {
        const std::int64_t begin = even_part(num_rows, num_tiles, idx);
        const std::int64_t end = even_part(num_rows, num_tiles, idx + 1);
        tile.num_rows = static_cast<int>(end - begin);
        for (std::int64_t r = begin; r < end; ++r) {
          tile.x[r - begin] = static_cast<const std::byte*>(x.at(r)) + kQuantizedHeaderBytes + k;
        }
        tile.out = sums + begin * kGroupColumns;
        gemm(tile);
      }
    }
    for (std::int64_t r = 0; r < num_rows; ++r) {
      for (std::int64_t p = 0; p < num_panels; ++p) {
        isa_.dequantize(sums + r * kGroupColumns + p * kLanes,
                        reinterpret_cast<const float*>(weight_.panel(first_panel + p)),
                        *static_cast<const QuantizedRowHeader*>(x.at(r)),
                        kLanes,
                        out + r * out_stride + p * kLanes);
      }
    }
  }

  const Kernels& isa_;
  const PackedWeight& weight_;
  std::int64_t padded_k_;
};

}  // namespace phi3::cpu
