// Attention within one span of keys: softmax weights of a row, weighted values of a tile of rows.
#include "cpu/kernels/functions.h"
#include "cpu/kernels/register_tiles.h"
#include "cpu/kernels/vec.h"

namespace phi3::cpu::PHI3_ISA {
namespace {

constexpr int kMaxBlocks = 4;  // of 16 dims, per register tile

// Blocks of 16 dims that one fetched cache line holds.
template <typename T>
constexpr int kLineBlocks = 64 / static_cast<int>(kLanes * sizeof(T));

template <typename T, int kRows, int kBlocks>
void value_tile(const ValueTile& tile, int row, int block) {
  float* out = tile.out + row * tile.out_stride + block * kLanes;
  F acc[kRows][kBlocks];
  for (int r = 0; r < kRows; ++r) {
    for (int b = 0; b < kBlocks; ++b) acc[r][b] = load(out + r * tile.out_stride + b * kLanes);
  }
  for (int key = tile.first; key < tile.last;) {
    const T* v = static_cast<const T*>(tile.v_pages[key / kLanes]) + block * kLanes;
    const T* next = static_cast<const T*>(tile.prefetch[key / kLanes]) + block * kLanes;
    const int page_end = (key / kLanes + 1) * kLanes;
    const int end = page_end < tile.last ? page_end : tile.last;
    for (; key < end; ++key) {
      F values[kBlocks];
      for (int b = 0; b < kBlocks; ++b) {
        const int at = (key % kLanes) * tile.head_dim + b * kLanes;
        if (kRows <= kPrefetchRows && b % kLineBlocks<T> == 0) prefetch(next + at);
        values[b] = load(v + at);
      }
      for (int r = 0; r < kRows; ++r) {
        const F weight = set1(tile.p[row + r][key]);
        for (int b = 0; b < kBlocks; ++b) acc[r][b] = fma(weight, values[b], acc[r][b]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int b = 0; b < kBlocks; ++b) store(out + r * tile.out_stride + b * kLanes, acc[r][b]);
  }
}

template <typename T, int kRows>
void value_rows(const ValueTile& tile, int row) {
  const int num_blocks = tile.head_dim / kLanes;
  constexpr int kFit = kAccumulators / kRows;
  constexpr int kBlocks = kFit < 1 ? 1 : (kFit < kMaxBlocks ? kFit : kMaxBlocks);
  int block = 0;
  for (; block + kBlocks <= num_blocks; block += kBlocks) {
    value_tile<T, kRows, kBlocks>(tile, row, block);
  }
  if constexpr (kBlocks > 2) {
    for (; block + 2 <= num_blocks; block += 2) value_tile<T, kRows, 2>(tile, row, block);
  }
  for (; block < num_blocks; ++block) value_tile<T, kRows, 1>(tile, row, block);
}

template <typename T>
void values(const ValueTile& tile) {
  constexpr int kMaxRows = kRegisterRows;
  for (int row = 0; row < tile.num_rows; row += kMaxRows) {
    const int rows = tile.num_rows - row < kMaxRows ? tile.num_rows - row : kMaxRows;
    switch (rows) {
      case 1:
        value_rows<T, 1>(tile, row);
        break;
      case 2:
        value_rows<T, 2>(tile, row);
        break;
      case 3:
        value_rows<T, 3>(tile, row);
        break;
      case 4:
        value_rows<T, 4>(tile, row);
        break;
      case 5:
        value_rows<T, 5>(tile, row);
        break;
      default:
        value_rows<T, 6>(tile, row);
        break;
    }
  }
}

template <typename T>
void scale_to(const float* o, float factor, T* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kLanes) store(out + i, mul(load(o + i), set1(factor)));
}

}  // namespace

void softmax_span(float* scores, int first, int last, float scale, float* max_out, float* sum_out) {
  const float infinity = __builtin_inff();
  const int begin = first / kLanes * kLanes;
  const int end = (last + kLanes - 1) / kLanes * kLanes;
  // What the masked lanes hold may be anything, NaN included: overwrite it before looking at it.
  for (int key = begin; key < first; ++key) scores[key] = -infinity;
  for (int key = last; key < end; ++key) scores[key] = -infinity;
  F best = set1(-infinity);
  for (int key = begin; key < end; key += kLanes) {
    const F score = mul(load(scores + key), set1(scale));
    store(scores + key, score);
    best = max(best, score);
  }
  const float max_score = max_lanes(best);
  F sum = zero();
  for (int key = begin; key < end; key += kLanes) {
    const F weight = exp(sub(load(scores + key), set1(max_score)));
    store(scores + key, weight);
    sum = add(sum, weight);
  }
  *max_out = max_score;
  *sum_out = sum_lanes(sum);
}

void values_f32(const ValueTile& tile) { values<float>(tile); }
void values_bf16(const ValueTile& tile) { values<std::uint16_t>(tile); }
void values_int8(const ValueTile& tile) { values<std::int8_t>(tile); }

void scale_keys(float* x, const float* const* scales, int first, int last) {
  for (int group = first / kLanes; group * kLanes < last; ++group) {
    float* lanes = x + group * kLanes;
    store(lanes, mul(load(lanes), load(scales[group])));
  }
}

void merge(float* o, const float* span, float a, float b, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kLanes) {
    store(o + i, fma(load(span + i), set1(b), mul(load(o + i), set1(a))));
  }
}

void scale_to_f32(const float* o, float factor, void* out, std::int64_t n) {
  scale_to(o, factor, static_cast<float*>(out), n);
}
void scale_to_bf16(const float* o, float factor, void* out, std::int64_t n) {
  scale_to(o, factor, static_cast<std::uint16_t*>(out), n);
}

}  // namespace phi3::cpu::PHI3_ISA
