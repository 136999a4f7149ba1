// What a GEMM does with its sums: one interface for all of its kernels, so that none of them can
// change the bits of a row.
//
// A kernel calls `store` once for every token and every pair of neighbouring rows of the packed
// weight, `row` even and below its padded rows; lanes next to each other on rows next to each
// other, which makes the accesses here coalesced. A kernel that has few warps to wait at a time
// calls `read` for several tokens before it stores any of them.
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

  // What is accumulated into; 0 for none.
  struct Read {
    float even = 0, odd = 0;
  };

  PHI3_DEVICE static Read read(const Params& p, std::int64_t token, std::int64_t row) {
    if (!p.accumulate || row >= p.out_features) return {};
    const bool has_odd = row + 1 < p.out_features;
    const float* const out = static_cast<const float*>(p.out) + token * p.out_stride + row;
    if (is_pair<float2>(out, has_odd)) {
      const float2 old = *reinterpret_cast<const float2*>(out);
      return {old.x, old.y};
    }
    return {out[0], has_odd ? out[1] : 0.0F};
  }

  PHI3_DEVICE static void store(const Params& p,
                                std::int64_t token,
                                std::int64_t row,
                                float even,
                                float odd,
                                const Read& old) {
    if (row >= p.out_features) return;
    scale_rows(p.row_scales, row, even, odd);
    const bool has_odd = row + 1 < p.out_features;
    even *= p.scale;
    odd *= p.scale;
    if (p.bias != nullptr) {
      even += load_as(p.dtype, p.bias, row);
      if (has_odd) odd += load_as(p.dtype, p.bias, row + 1);
    }
    if (p.accumulate) {
      even = old.even + even;
      odd = old.odd + odd;
    }
    const std::int64_t at = token * p.out_stride + row;
    if (p.out_dtype == DType::kFloat32) {
      store_float(static_cast<float*>(p.out) + at, even, odd, has_odd);
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

  PHI3_DEVICE static void store_float(float* out, float even, float odd, bool has_odd) {
    if (is_pair<float2>(out, has_odd)) {
      *reinterpret_cast<float2*>(out) = make_float2(even, odd);
      return;
    }
    out[0] = even;
    if (has_odd) out[1] = odd;
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

  struct Read {};

  PHI3_DEVICE static Read read(const Params&, std::int64_t, std::int64_t) { return {}; }

  PHI3_DEVICE static void store(
      const Params& p, std::int64_t token, std::int64_t row, float gate, float up, const Read&) {
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

  // Of the token: its slot, negative for one that is none; the angle of the row's dims, or 1, 0
  // where they are not rotated, and NaN without a slot, a position and a rope set that there are.
  struct Read {
    std::int32_t slot;
    float cos, sin;
  };

  // Without branches that wait for what is read: of several tokens all is under way at once.
  PHI3_DEVICE static Read read(const Params& p, std::int64_t token, std::int64_t row) {
    const std::int32_t position = p.positions[token];
    const std::int32_t set = p.rope_sets[token];
    const std::int32_t slot = p.slots[token];
    const bool has_slot = (slot >= 0) & (slot < p.num_slots);
    const bool is_known = has_slot & (position >= 0) & (position < p.max_positions) & (set >= 0) &
                          (set < p.num_rope_sets);
    const bool has_angle = is_known & is_rotated(p, row);
    const std::int64_t dim = static_cast<std::uint32_t>(row) % p.head_dim;
    const float* const angle =
        p.rope_table + (has_angle ? (set * p.max_positions + position) * p.rotary_dim + dim : 0);
    const float cos = has_angle ? angle[0] : 1.0F;
    const float sin = has_angle ? angle[1] : 0.0F;
    return {has_slot ? slot : -1, is_known ? cos : quiet_nan(), sin};
  }

  PHI3_DEVICE static void store(const Params& p,
                                std::int64_t token,
                                std::int64_t row,
                                float even,
                                float odd,
                                const Read& of) {
    const std::uint32_t head = static_cast<std::uint32_t>(row) / p.head_dim;
    if (head >= p.num_heads + 2 * p.num_kv_heads) return;
    const std::uint32_t dim = static_cast<std::uint32_t>(row) % p.head_dim;
    const bool rotates = is_rotated(p, row);
    const std::uint32_t first = rotates ? dim / 2 : dim;
    const std::uint32_t second = rotates ? first + p.rotary_dim / 2 : dim + 1;
    scale_rows(p.row_scales, row, even, odd);
    if (p.bias != nullptr) {
      const std::int64_t at = row - dim;
      even += load_as(p.dtype, p.bias, at + first);
      odd += load_as(p.dtype, p.bias, at + second);
    }
    if (isnan(of.cos)) {
      even = odd = quiet_nan();
    } else if (rotates) {
      const float rotated = even * of.cos - odd * of.sin;
      odd = odd * of.cos + even * of.sin;
      even = rotated;
    }
    if (head < p.num_heads) {
      const std::int64_t at = (token * p.num_heads + head) * p.head_dim;
      store_as(p.dtype, p.q_out, at + first, even);
      store_as(p.dtype, p.q_out, at + second, odd);
    } else if (of.slot >= 0) {
      const bool is_value = head >= p.num_heads + p.num_kv_heads;
      const std::uint32_t kv_head = head - p.num_heads - (is_value ? p.num_kv_heads : 0);
      const std::int64_t page_head = of.slot / kPageSize * p.num_kv_heads + kv_head;
      const std::int64_t at = (page_head * kPageSize + of.slot % kPageSize) * p.head_dim;
      void* const pages = is_value ? p.v_pages : p.k_pages;
      store_as(p.kv_dtype, pages, at + first, even);
      store_as(p.kv_dtype, pages, at + second, odd);
    }
  }

 private:
  PHI3_DEVICE static bool is_rotated(const Params& p, std::int64_t row) {
    const auto at = static_cast<std::uint32_t>(row);
    return at / p.head_dim < p.num_heads + p.num_kv_heads && at % p.head_dim < p.rotary_dim;
  }
};

template <typename Epilogue>
PHI3_DEVICE void read_and_store(const typename Epilogue::Params& p,
                                std::int64_t token,
                                std::int64_t row,
                                float even,
                                float odd) {
  Epilogue::store(p, token, row, even, odd, Epilogue::read(p, token, row));
}

}  // namespace phi3::cuda
