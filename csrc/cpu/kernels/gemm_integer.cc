// GEMM tiles of int8 activations with panels of an integer format. Sums are exact in 32 bits, so
// that neither their order nor the tile can change a bit.
#include "cpu/kernels/functions.h"
#include "cpu/kernels/integer.h"
#include "cpu/kernels/register_tiles.h"

namespace phi3::cpu::PHI3_ISA {
namespace {

constexpr int kQuadBytes = 4 * kLanes;  // four of k, 16 rows

template <int kRows, int kPanels>
struct IntegerAccumulators {
  Integers v[kRows][kPanels];

  void start(const IntegerTile& tile, const std::int32_t* out) {
    for (int r = 0; r < kRows; ++r) {
      for (int p = 0; p < kPanels; ++p) {
        v[r][p] = tile.accumulate ? load_integers(out + r * tile.out_stride + p * kLanes)
                                  : zero_integers();
      }
    }
  }
  void finish(const IntegerTile& tile, std::int32_t* out) const {
    for (int r = 0; r < kRows; ++r) {
      for (int p = 0; p < kPanels; ++p) {
        store_integers(out + r * tile.out_stride + p * kLanes, v[r][p]);
      }
    }
  }
  // Adds four of k.
  void add(const Weights (&weights)[kPanels],
           const Pointers<std::int8_t, kRows>& x,
           std::int64_t k) {
    for (int r = 0; r < kRows; ++r) {
      const Activations quad = broadcast_quad(x.at[r] + k);
      for (int p = 0; p < kPanels; ++p) v[r][p] = add_dot(v[r][p], weights[p], quad);
    }
  }
};

struct IntegerTiles {
  static constexpr int kMaxRows = kIntegerRows;
  static constexpr int kAccumulators = kIntegerAccumulators;
};

struct Int8Panels : IntegerTiles {
  template <int kRows, int kPanels>
  static void run(const IntegerTile& tile, int row, int panel) {
    std::int32_t* out = tile.out + row * tile.out_stride + panel * kLanes;
    const Pointers<std::int8_t, kRows> x(tile.x + row);
    const Pointers<std::uint8_t, kPanels> w(tile.panels + panel);
    IntegerAccumulators<kRows, kPanels> acc;
    acc.start(tile, out);
    for (std::int64_t k = 0; k < tile.k; k += 4) {
      Weights weights[kPanels];
      for (int p = 0; p < kPanels; ++p) {
        const std::uint8_t* at = w.at[p] + k * kLanes;
        if constexpr (kRows <= kPrefetchRows) __builtin_prefetch(at + kPrefetchBytes);
        weights[p] = weights_of(load_bytes(at));
      }
      acc.add(weights, x, k);
    }
    acc.finish(tile, out);
  }
};

inline Bytes load_factor(const ExpandedGroup& group) { return load_bytes(group.factor); }
inline Bytes load_offset(const ExpandedGroup& group) { return load_bytes(group.offset); }

inline Bytes expand(Bytes numbers, const ExpandedGroup& group) {
  return add_bytes(multiply(numbers, load_factor(group)), load_offset(group));
}

struct Int4Panels : IntegerTiles {
  template <int kRows, int kPanels>
  static void run(const IntegerTile& tile, int row, int panel) {
    std::int32_t* out = tile.out + row * tile.out_stride + panel * kLanes;
    const Pointers<std::int8_t, kRows> x(tile.x + row);
    const Pointers<std::uint8_t, kPanels> w(tile.panels + panel);
    IntegerAccumulators<kRows, kPanels> acc;
    acc.start(tile, out);
    for (std::int64_t k = 0; k < tile.k; k += kExpandedGroupK) {
      for (std::int64_t pair = k; pair < k + kExpandedGroupK; pair += 8) {
        Bytes numbers[kPanels];
        Weights weights[kPanels];
        for (int p = 0; p < kPanels; ++p) {
          const std::uint8_t* at = w.at[p] + pair / 8 * kQuadBytes;
          if constexpr (kRows <= kPrefetchRows) __builtin_prefetch(at + kPrefetchBytes);
          numbers[p] = load_bytes(at);
        }
        for (int p = 0; p < kPanels; ++p) {
          const ExpandedGroup& group = tile.groups[panel + p][k / kExpandedGroupK];
          weights[p] = weights_of(expand(low_nibbles(numbers[p]), group));
        }
        acc.add(weights, x, pair);
        for (int p = 0; p < kPanels; ++p) {
          const ExpandedGroup& group = tile.groups[panel + p][k / kExpandedGroupK];
          weights[p] = weights_of(expand(high_nibbles(numbers[p]), group));
        }
        acc.add(weights, x, pair + 4);
      }
    }
    acc.finish(tile, out);
  }
};

// S and z of 16 rows, in every byte of a lane.
inline void store_group(Bytes multiplier, Bytes zero, ExpandedGroup& out) {
  const Bytes factor = low_halves(multiplier);
  store_bytes(out.factor, factor);
  store_bytes(out.offset, subtract_bytes(same_bytes(kWeightOffset), multiply(zero, factor)));
}

}  // namespace

void gemm_u8(const IntegerTile& tile) { cover<Int8Panels>(tile); }
void gemm_u4(const IntegerTile& tile) { cover<Int4Panels>(tile); }

void expand_groups(WeightFormat format,
                   const std::uint8_t* stored,
                   std::int64_t k,
                   ExpandedGroup* out) {
  if (format == WeightFormat::kInt4Group32) {
    for (std::int64_t pair = 0; pair < k / 64; ++pair) {
      const Bytes both = spread(stored + pair * kLanes);
      store_group(low_nibbles(both), same_bytes(8), out[2 * pair]);
      store_group(high_nibbles(both), same_bytes(8), out[2 * pair + 1]);
    }
    return;
  }
  const std::int64_t copies = group_size(format) / kExpandedGroupK;
  for (std::int64_t group = 0; group < k / group_size(format); ++group) {
    const Bytes both = spread(stored + group * kLanes);
    for (std::int64_t copy = 0; copy < copies; ++copy) {
      store_group(low_nibbles(both), high_nibbles(both), out[group * copies + copy]);
    }
  }
}

void expand_u4(const std::uint8_t* numbers,
               const ExpandedGroup* groups,
               std::int64_t k,
               std::uint8_t* out) {
  for (std::int64_t pair = 0; pair < k; pair += 8) {
    const Bytes both = load_bytes(numbers + pair / 8 * kQuadBytes);
    const ExpandedGroup& group = groups[pair / kExpandedGroupK];
    store_bytes(out + pair * kLanes, expand(low_nibbles(both), group));
    store_bytes(out + (pair + 4) * kLanes, expand(high_nibbles(both), group));
  }
}

void dequantize(const std::int32_t* sums,
                const float* row_scales,
                QuantizedRowHeader x,
                std::int64_t n,
                float* out) {
  const std::int32_t offset = kDotOffset * x.sum;
  for (std::int64_t i = 0; i < n; ++i) {
    const float scale = row_scales[i] * x.scale;
    out[i] = static_cast<float>(sums[i] - offset) * scale;
  }
}

}  // namespace phi3::cpu::PHI3_ISA
