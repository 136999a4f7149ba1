// What a GEMM does with its sums: one interface for all of its kernels, so that none of them can
// change the bits of a row.
//
// A kernel calls `store` once for every token and every pair of neighbouring rows of the packed
// weight, `row` even and below its padded rows; lanes next to each other on rows next to each
// other, which makes the accesses here coalesced.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/params.h"
#include "cuda/ptx.h"

namespace phi3::cuda {

PHI3_DEVICE float quiet_nan() { return __uint_as_float(0x7fc00000U); }

// Element idx of an A array.
PHI3_DEVICE float load_as(DType dtype, const void* data, std::int64_t idx) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(data)[idx];
  return to_float(static_cast<const BFloat16*>(data)[idx]);
}

// Rounds to an A or fp8 array.
PHI3_DEVICE void store_as(DType dtype, void* data, std::int64_t idx, float value) {
  if (dtype == DType::kFloat32) {
    static_cast<float*>(data)[idx] = value;
  } else if (dtype == DType::kBFloat16) {
    static_cast<BFloat16*>(data)[idx] = from_float<BFloat16>(value);
  } else {
    static_cast<Float8*>(data)[idx] = from_float<Float8>(value);
  }
}

// The weight row's own factor, of fp8 weights.
PHI3_DEVICE void scale_rows(const float* row_scales, std::int64_t row, float& even, float& odd) {
  if (row_scales == nullptr) return;
  even *= row_scales[row];
  odd *= row_scales[row + 1];
}

// out[token][row] (+)= scale · sum + bias[row].
struct StoreEpilogue {
  struct Params {
    const float* row_scales;  // [padded rows], null unless the weight is fp8
    float scale;
    DType dtype;       // A
    const void* bias;  // A [n], may be null
    DType out_dtype;   // A or float32
    void* out;         // [T, n]
    std::int64_t out_stride;
    bool accumulate;  // into float32
    std::int64_t out_features;
  };

  PHI3_DEVICE static void store(
      const Params& p, std::int64_t token, std::int64_t row, float even, float odd) {
    if (row >= p.out_features) return;
    scale_rows(p.row_scales, row, even, odd);
    const bool has_odd = row + 1 < p.out_features;
    even *= p.scale;
    odd *= p.scale;
    if (p.bias != nullptr) {
      even += load_as(p.dtype, p.bias, row);
      if (has_odd) odd += load_as(p.dtype, p.bias, row + 1);
    }
    const std::int64_t at = token * p.out_stride + row;
    if (p.out_dtype == DType::kFloat32) {
      store_float(static_cast<float*>(p.out) + at, even, odd, has_odd, p.accumulate);
    } else {
      store_bf16(static_cast<BFloat16*>(p.out) + at, even, odd, has_odd);
    }
  }

 private:
  // Row strides may be odd, so that pairs of some tokens are not aligned.
  template <typename Pair>
  PHI3_DEVICE static bool is_pair(const void* out, bool has_odd) {
    return has_odd && reinterpret_cast<std::uintptr_t>(out) % sizeof(Pair) == 0;
  }

  PHI3_DEVICE static void store_float(
      float* out, float even, float odd, bool has_odd, bool accumulate) {
    if (is_pair<float2>(out, has_odd)) {
      auto* const pair = reinterpret_cast<float2*>(out);
      const float2 old = accumulate ? *pair : make_float2(0, 0);
      *pair = accumulate ? make_float2(old.x + even, old.y + odd) : make_float2(even, odd);
      return;
    }
    out[0] = accumulate ? out[0] + even : even;
    if (has_odd) out[1] = accumulate ? out[1] + odd : odd;
  }

  PHI3_DEVICE static void store_bf16(BFloat16* out, float even, float odd, bool has_odd) {
    const std::uint32_t pair = pack_bf16x2(even, odd);
    if (is_pair<std::uint32_t>(out, has_odd)) {
      *reinterpret_cast<std::uint32_t*>(out) = pair;
      return;
    }
    out[0] = {static_cast<std::uint16_t>(pair)};
    if (has_odd) out[1] = {static_cast<std::uint16_t>(pair >> 16)};
  }
};

// act[token][i] = activation(gate, up) of rows 2i and 2i + 1, see `mlp`.
struct GatedEpilogue {
  struct Params {
    const float* row_scales;  // [padded rows], null unless the weight is fp8
    DType dtype;              // A
    const void* bias;         // A [2F], gate | up; may be null
    bool is_gegelu;           // else SwiGLU
    float gegelu_limit;
    void* act;  // A [T, F]
    std::int64_t mlp_width;
  };

  PHI3_DEVICE static void store(
      const Params& p, std::int64_t token, std::int64_t row, float gate, float up) {
    const std::int64_t column = row / 2;
    if (column >= p.mlp_width) return;
    scale_rows(p.row_scales, row, gate, up);
    if (p.bias != nullptr) {
      gate += load_as(p.dtype, p.bias, column);
      up += load_as(p.dtype, p.bias, p.mlp_width + column);
    }
    const float act = p.is_gegelu ? gegelu(gate, up, p.gegelu_limit) : silu(gate) * up;
    store_as(p.dtype, p.act, token * p.mlp_width + column, act);
  }

 private:
  PHI3_DEVICE static float silu(float x) { return x / (1.0F + expf(-x)); }

  // Comparisons are false for a NaN, which so stays one.
  PHI3_DEVICE static float gegelu(float gate, float up, float limit) {
    const float a = gate > limit && !isinf(gate) ? limit : gate;
    const float clipped = up > limit ? limit : up < -limit ? -limit : up;
    const float b = isinf(up) ? up : clipped;
    return a / (1.0F + expf(-1.702F * a)) * (b + 1.0F);
  }
};

// Rotates q and k, stores q, and writes k and v into their pages, see `qkv_rope`. Within the rows
// of a q or k head, row 2i is dim i and row 2i + 1 dim i + R/2 for i < R/2: the two that are
// rotated together. All other rows are in the order of dims.
struct QkvRopeEpilogue {
  struct Params {
    const float* row_scales;        // [padded rows], null unless the weight is fp8
    DType dtype;                    // A
    const void* bias;               // A [(H + 2K) · D] in the order of dims, may be null
    const std::int32_t* positions;  // [T]
    const std::int32_t* rope_sets;  // [T]
    const float* rope_table;        // [S, max_pos, R/2, 2]: cos, sin
    const std::int32_t* slots;      // [T] page · 16 + offset
    DType kv_dtype;                 // A or fp8
    void* k_pages;                  // [N, K, 16, D]
    void* v_pages;                  // [N, K, 16, D]
    void* q_out;                    // A [T, H, D]
    std::uint32_t num_heads, num_kv_heads, head_dim, rotary_dim;
    std::int64_t num_slots, num_rope_sets, max_positions;
  };

  PHI3_DEVICE static void store(
      const Params& p, std::int64_t token, std::int64_t row, float even, float odd) {
    const std::uint32_t head = static_cast<std::uint32_t>(row) / p.head_dim;
    if (head >= p.num_heads + 2 * p.num_kv_heads) return;
    const std::uint32_t dim = static_cast<std::uint32_t>(row) % p.head_dim;
    const bool is_rotated = head < p.num_heads + p.num_kv_heads && dim < p.rotary_dim;
    const std::uint32_t first = is_rotated ? dim / 2 : dim;
    const std::uint32_t second = is_rotated ? first + p.rotary_dim / 2 : dim + 1;
    scale_rows(p.row_scales, row, even, odd);
    if (p.bias != nullptr) {
      const std::int64_t at = row - dim;
      even += load_as(p.dtype, p.bias, at + first);
      odd += load_as(p.dtype, p.bias, at + second);
    }
    const std::int64_t position = p.positions[token];
    const std::int64_t set = p.rope_sets[token];
    const std::int64_t slot = p.slots[token];
    const bool has_slot = slot >= 0 && slot < p.num_slots;
    if (!has_slot || position < 0 || position >= p.max_positions || set < 0 ||
        set >= p.num_rope_sets) {
      even = odd = quiet_nan();
    } else if (is_rotated) {
      const std::int64_t at = (set * p.max_positions + position) * p.rotary_dim + dim;
      const float cos = p.rope_table[at];
      const float sin = p.rope_table[at + 1];
      const float rotated = even * cos - odd * sin;
      odd = odd * cos + even * sin;
      even = rotated;
    }
    if (head < p.num_heads) {
      const std::int64_t at = (token * p.num_heads + head) * p.head_dim;
      store_as(p.dtype, p.q_out, at + first, even);
      store_as(p.dtype, p.q_out, at + second, odd);
    } else if (has_slot) {
      const bool is_value = head >= p.num_heads + p.num_kv_heads;
      const std::uint32_t kv_head = head - p.num_heads - (is_value ? p.num_kv_heads : 0);
      const std::int64_t page_head = slot / kPageSize * p.num_kv_heads + kv_head;
      const std::int64_t at = (page_head * kPageSize + slot % kPageSize) * p.head_dim;
      void* const pages = is_value ? p.v_pages : p.k_pages;
      store_as(p.kv_dtype, pages, at + first, even);
      store_as(p.kv_dtype, pages, at + second, odd);
    }
  }
};

}  // namespace phi3::cuda
