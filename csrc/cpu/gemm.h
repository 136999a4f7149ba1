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
  // How far ahead a tile fetches its own panels: farther with more rows, whose tiles ask for lines
  // more slowly than the hardware looks ahead.
  static constexpr std::int64_t kFewRows = 4;
  static constexpr std::int64_t kFewRowsPrefetchBytes = 256;
  static constexpr std::int64_t kManyRowsPrefetchBytes = 1024;
  // A group's panels and the rows' activations of one k block fit in a 1 MB second-level cache
  // together, but for float32. Blocks follow each other through exact stores, so they do not change
  // a bit.
  static constexpr std::int64_t kFloatBlockK = 2048;
  static constexpr std::int64_t kIntegerBlockK = 1024;
  static_assert(kIntegerBlockK % block_k(WeightFormat::kInt4Group128) == 0);
  // With more rows it pays to turn int4 into int8 once and for all of them.
  static constexpr std::int64_t kMostDirectRows = 16;
  static_assert(kMostDirectRows >=
                kIntegerTileRows);  // so that what is expanded is cut into blocks

  // The numbers of a panel from k on.
  const std::byte* numbers(std::int64_t panel, std::int64_t k) const {
    return weight_.panel(panel) + numbers_offset(weight_.format) + number_bytes(weight_.format, k);
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

  // One tile alone fetches its own panels a little ahead. Several share in fetching what the next
  // block of k will read, or the next task behind the last one, so that memory does not rest while
  // they compute.
  void set_prefetch(IntegerTile& tile,
                    std::int64_t panel,
                    std::int64_t k,
                    std::int64_t block_k,
                    std::int64_t idx,
                    std::int64_t num_tiles) const {
    // Of 4 of k and 16 rows; of int4 with its share of S and z.
    const std::int64_t quad_bytes = is_int4(weight_.format) ? 34 : 64;
    tile.prefetch_bytes = ceil_div(quad_bytes, num_tiles);
    const std::int64_t ahead =
        tile.num_rows <= kFewRows ? kFewRowsPrefetchBytes : kManyRowsPrefetchBytes;
    const bool is_last = k + block_k >= padded_k_;
    const std::int64_t share = tile.prefetch_bytes * tile.k / 4;
    for (std::int64_t p = 0; p < tile.num_panels; ++p) {
      const std::byte* from =
          num_tiles == 1 ? static_cast<const std::byte*>(tile.panels[p]) + ahead
          : is_last      ? numbers(std::min(panel + tile.num_panels + p, weight_.num_panels - 1), 0)
                         : numbers(panel + p, k + block_k);
      tile.prefetch[p] = from + idx * share;
    }
  }

  void run_integers(Rows x,
                    std::int64_t num_rows,
                    std::int64_t first_panel,
                    std::int64_t num_panels,
                    float* out,
                    std::int64_t out_stride) const {
    alignas(64) std::int32_t sums[kBlockRows * kGroupColumns];
    alignas(64) std::uint8_t expanded[kTilePanels][kIntegerBlockK * kLanes];
    const bool is_u4 = is_int4(weight_.format);
    const bool is_expanded = is_u4 && num_rows > kMostDirectRows;
    const auto gemm = is_u4 && !is_expanded ? isa_.gemm_u4 : isa_.gemm_u8;
    const std::int64_t num_tiles = ceil_div(num_rows, isa_.integer_tile_rows);
    const std::int64_t block_k = num_tiles > 1 ? kIntegerBlockK : padded_k_;
    for (std::int64_t k = 0; k < padded_k_; k += block_k) {
      IntegerTile tile{};
      tile.format = weight_.format;
      tile.num_panels = static_cast<int>(num_panels);
      tile.accumulate = k > 0;
      tile.k = std::min(block_k, padded_k_ - k);
      tile.out_stride = kGroupColumns;
      for (std::int64_t p = 0; p < num_panels; ++p) {
        tile.panels[p] = numbers(first_panel + p, k);
        if (!is_expanded) continue;
        isa_.expand_u4(weight_.format, tile.panels[p], tile.k, expanded[p]);
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
        set_prefetch(tile, first_panel, k, block_k, idx, num_tiles);
        gemm(tile);
      }
    }
    IntegerSums finished{.sums = sums,
                         .sums_stride = kGroupColumns,
                         .scales = {},
                         .x = static_cast<const std::byte*>(x.data),
                         .x_stride = x.stride,
                         .num_panels = static_cast<int>(num_panels),
                         .num_rows = num_rows,
                         .out = out,
                         .out_stride = out_stride};
    for (std::int64_t p = 0; p < num_panels; ++p) {
      finished.scales[p] = reinterpret_cast<const float*>(weight_.panel(first_panel + p));
    }
    isa_.dequantize(finished);
  }

  const Kernels& isa_;
  const PackedWeight& weight_;
  std::int64_t padded_k_;
};

}  // namespace phi3::cpu
