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
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        v[r][p] = tile.accumulate ? load_integers(out + r * tile.out_stride + p * kLanes)
                                  : zero_integers();
      }
    }
  }
  void finish(const IntegerTile& tile, std::int32_t* out) const {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        store_integers(out + r * tile.out_stride + p * kLanes, v[r][p]);
      }
    }
  }
  // Adds four of k.
  [[gnu::always_inline]] void add(const Weights (&weights)[kPanels],
                                  const Pointers<std::int8_t, kRows>& x,
                                  std::int64_t k) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Activations quad = broadcast_quad(x.at[r] + k);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) v[r][p] = add_dot(v[r][p], weights[p], quad);
    }
  }
};

template <int kPanels>
struct Prefetches {
  const std::byte* at[kPanels];
  std::int64_t bytes;

  Prefetches(const IntegerTile& tile, int panel) : bytes(tile.prefetch_bytes) {
    for (int p = 0; p < kPanels; ++p) at[p] = tile.prefetch[panel + p];
  }
  void fetch(int p, std::int64_t k) const { __builtin_prefetch(at[p] + k / 4 * bytes); }
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
    const Prefetches<kPanels> next(tile, panel);
    IntegerAccumulators<kRows, kPanels> acc;
    acc.start(tile, out);
    for (std::int64_t k = 0; k < tile.k; k += 4) {
      Weights weights[kPanels];
      for (int p = 0; p < kPanels; ++p) {
        next.fetch(p, k);
        weights[p] = weights_of(load_bytes(w.at[p] + k * kLanes));
      }
      acc.add(weights, x, k);
    }
    acc.finish(tile, out);
  }
};

// S and z of 16 rows of an int4 panel, made ready: a number as of int8 is q · factor + offset.
struct Group {
  Bytes factor;  // in the low half of every 16 bits
  Bytes offset;

  Group() = default;
  Group(Bytes multiplier, Bytes zero)
      : factor(low_halves(multiplier)),
        offset(subtract_bytes(same_bytes(kWeightOffset), multiply(zero, factor))) {}

  Bytes expand(Bytes numbers) const { return add_bytes(multiply(numbers, factor), offset); }
};

constexpr int kGroupK = 32;                         // as many k have one S and z, or more
constexpr int kNumberBytes = kGroupK * kLanes / 2;  // of so many k

// Walks through the blocks of an int4 format, 32 of k at a time. Their sizes are powers of two.
class Blocks {
 public:
  explicit Blocks(WeightFormat format)
      : block_bytes_(number_bytes(format, block_k(format))),
        steps_mask_(block_k(format) / kGroupK - 1),
        steps_shift_(__builtin_ctzll(static_cast<unsigned long long>(block_k(format) / kGroupK))),
        group_shift_(
            __builtin_ctzll(static_cast<unsigned long long>(group_size(format) / kGroupK))),
        is_paired_(format == WeightFormat::kInt4Group32) {}

  // step: k / 32.
  Group group(const std::uint8_t* blocks, std::int64_t step) const {
    const std::uint8_t* stored = block(blocks, step);
    const std::int64_t idx = (step & steps_mask_) >> group_shift_;
    if (is_paired_) {
      const Bytes both = spread(stored + idx / 2 * kLanes);
      return {idx % 2 == 0 ? low_nibbles(both) : high_nibbles(both), same_bytes(8)};
    }
    const Bytes both = spread(stored + idx * kLanes);
    return {low_nibbles(both), high_nibbles(both)};
  }

  const std::uint8_t* numbers(const std::uint8_t* blocks, std::int64_t step) const {
    return block(blocks, step) + kGroupBytes + (step & steps_mask_) * kNumberBytes;
  }

 private:
  const std::uint8_t* block(const std::uint8_t* blocks, std::int64_t step) const {
    return blocks + (step >> steps_shift_) * block_bytes_;
  }

  std::int64_t block_bytes_;
  std::int64_t steps_mask_;  // steps of 32 in a block, less one
  int steps_shift_;
  int group_shift_;  // of the steps that share an S and z
  bool is_paired_;
};

struct Int4Panels : IntegerTiles {
  template <int kRows, int kPanels>
  static void run(const IntegerTile& tile, int row, int panel) {
    std::int32_t* out = tile.out + row * tile.out_stride + panel * kLanes;
    const Pointers<std::int8_t, kRows> x(tile.x + row);
    const Pointers<std::uint8_t, kPanels> w(tile.panels + panel);
    const Blocks blocks(tile.format);
    const Prefetches<kPanels> next(tile, panel);
    IntegerAccumulators<kRows, kPanels> acc;
    acc.start(tile, out);
    for (std::int64_t k = 0; k < tile.k; k += kGroupK) {
      Group groups[kPanels];
      const std::uint8_t* numbers[kPanels];
      for (int p = 0; p < kPanels; ++p) {
        groups[p] = blocks.group(w.at[p], k / kGroupK);
        numbers[p] = blocks.numbers(w.at[p], k / kGroupK);
      }
      for (int pair = 0; pair < kGroupK; pair += 8) {
        Bytes both[kPanels];
        Weights weights[kPanels];
        for (int p = 0; p < kPanels; ++p) {
          next.fetch(p, k + pair);
          both[p] = load_bytes(numbers[p] + pair / 8 * kQuadBytes);
          weights[p] = weights_of(groups[p].expand(low_nibbles(both[p])));
        }
        acc.add(weights, x, k + pair);
        for (int p = 0; p < kPanels; ++p) {
          weights[p] = weights_of(groups[p].expand(high_nibbles(both[p])));
        }
        acc.add(weights, x, k + pair + 4);
      }
    }
    acc.finish(tile, out);
  }
};

}  // namespace

void gemm_u8(const IntegerTile& tile) { cover<Int8Panels>(tile); }
void gemm_u4(const IntegerTile& tile) { cover<Int4Panels>(tile); }

void expand_u4(WeightFormat format, const void* from, std::int64_t k, std::uint8_t* out) {
  const Blocks blocks(format);
  const auto* first = static_cast<const std::uint8_t*>(from);
  for (std::int64_t begin = 0; begin < k; begin += kGroupK) {
    const Group group = blocks.group(first, begin / kGroupK);
    const std::uint8_t* numbers = blocks.numbers(first, begin / kGroupK);
    for (int pair = 0; pair < kGroupK; pair += 8) {
      const Bytes both = load_bytes(numbers + pair / 8 * kQuadBytes);
      std::uint8_t* to = out + (begin + pair) * kLanes;
      store_bytes(to, group.expand(low_nibbles(both)));
      store_bytes(to + kQuadBytes, group.expand(high_nibbles(both)));
    }
  }
}

void dequantize(const IntegerSums& tile) {
  F scales[kTilePanels];
  for (int p = 0; p < tile.num_panels; ++p) scales[p] = load(tile.scales[p]);
  for (std::int64_t r = 0; r < tile.num_rows; ++r) {
    QuantizedRowHeader x;
    __builtin_memcpy(&x, tile.x + r * tile.x_stride, sizeof x);
    // Unsigned, as whoever fills a row may write any sum.
    const auto offset_sum = kDotOffset * static_cast<std::uint32_t>(x.sum);
    const Integers offset = same_integers(static_cast<std::int32_t>(offset_sum));
    const F x_scale = set1(x.scale);
    for (int p = 0; p < tile.num_panels; ++p) {
      const Integers sums = load_integers(tile.sums + r * tile.sums_stride + p * kLanes);
      store(tile.out + r * tile.out_stride + p * kLanes,
            mul(to_floats(subtract(sums, offset)), mul(scales[p], x_scale)));
    }
  }
}

}  // namespace phi3::cpu::PHI3_ISA
