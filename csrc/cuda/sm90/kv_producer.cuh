// What the producer warpgroup does: one kv head of one sequence, from the pages into the ring.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/params.h"
#include "cuda/attention_keys.cuh"
#include "cuda/attention_tile.cuh"
#include "cuda/attention_view.cuh"
#include "cuda/ptx.h"
#include "cuda/sm90/kv_ring.cuh"
#include "cuda/sm90/special_values.cuh"

namespace phi3::cuda::sm90 {

// Rows of keys that no row of the block sees are zeros; keys of a bad page are NaN, which reaches
// those rows that see them, and their values zeros.
template <typename Kv, int kHeadDim>
class KvProducer {
 public:
  using Ring = KvRing<Kv, kHeadDim>;

  PHI3_DEVICE KvProducer(
      const AttentionParams& p, const KeyView& view, int sequence, int kv_head, Ring& ring)
      : ring_(ring),
        view_(view),
        ids_(p, sequence),
        keys_(static_cast<const Kv*>(p.k_pages)),
        values_(static_cast<const Kv*>(p.v_pages)),
        head_offset_(kv_head * kPageSize * kHeadDim),
        page_stride_(p.num_kv_heads * kPageSize * kHeadDim) {}

  PHI3_DEVICE void run() {
    const int end = view_.end_tile();
    KeyTile next = view_.next(view_.begin_tile(), end);
    int num_fetched = 0;
    for (int tile = -Ring::kTilesAhead; tile < num_fetched; ++tile) {
      if (next.idx < end) {
        fetch(num_fetched++, next);
        next = view_.next(next.idx + 1, end);
      }
      cp_async_commit();
      if (tile < 0) continue;
      cp_async_wait<Ring::kTilesAhead>();
      finish(tile);
    }
  }

 private:
  using Tile = typename Ring::Tile;
  static constexpr int kPageKeys = static_cast<int>(kPageSize);
  static constexpr int kChunkElements = 16 / sizeof(Kv);
  static constexpr int kRowChunks = kHeadDim / kChunkElements;
  static constexpr int kThreadChunks = kTileKeys * kRowChunks / kWarpgroupSize;
  static_assert(kTileKeys * kRowChunks % kWarpgroupSize == 0);

  // 16 bytes of a key's row.
  struct Chunk {
    int key, idx;

    PHI3_DEVICE explicit Chunk(int i) {
      const int place = i * kWarpgroupSize + static_cast<int>(threadIdx.x) % kWarpgroupSize;
      key = place / kRowChunks;
      idx = place % kRowChunks;
    }
    PHI3_DEVICE int narrow_offset() const { return (key * kRowChunks + idx) * 16; }
  };

  PHI3_DEVICE void fetch(int tile, const KeyTile& keys) {
    ring_.wait_for_room(tile);
#pragma unroll
    for (int i = 0; i < kThreadChunks; ++i) {
      const Chunk chunk(i);
      const int page = chunk.key / kPageKeys;
      const int id = ids_.id_of(keys.idx, page);
      const bool is_seen = (keys.pages >> page & 1U) != 0;
      const bool is_valid =
          is_seen && id != SpanPages::kBad && view_.has_key(keys.idx * kTileKeys + chunk.key);
      const std::int64_t source = is_valid ? id * page_stride_ + head_offset_ +
                                                 chunk.key % kPageKeys * kHeadDim +
                                                 chunk.idx * kChunkElements
                                           : 0;
      unsigned char* key_place = nullptr;
      unsigned char* value_place = nullptr;
      if constexpr (Ring::kIsWide) {
        key_place = ring_.stage(tile).keys + Tile::offset(chunk.key, chunk.idx);
        value_place = ring_.stage(tile).values + Tile::offset(chunk.key, chunk.idx);
      } else {
        key_place = ring_.narrow_tile(tile).keys + chunk.narrow_offset();
        value_place = ring_.narrow_tile(tile).values + chunk.narrow_offset();
      }
      if (is_seen && id == SpanPages::kBad) {
        constexpr std::uint32_t kNan = Ring::kIsWide ? 0x7fc07fc0U : 0x7f7f7f7fU;
        *reinterpret_cast<uint4*>(key_place) = make_uint4(kNan, kNan, kNan, kNan);
      } else {
        cp_async16(key_place, keys_ + source, is_valid);
      }
      cp_async16(value_place, values_ + source, is_valid);
    }
  }

  // What this thread fetched of the tile is there.
  PHI3_DEVICE void finish(int tile) {
    auto& stage = ring_.stage(tile);
    bool is_special = false;
#pragma unroll
    for (int i = 0; i < kThreadChunks; ++i) {
      const Chunk chunk(i);
      if constexpr (Ring::kIsWide) {
        auto& values = *reinterpret_cast<uint4*>(stage.values + Tile::offset(chunk.key, chunk.idx));
        if (take_specials(values)) is_special = true;
      } else {
        for (int half = 0; half < 2; ++half) {
          const int narrow = chunk.narrow_offset() + half * 8;
          const int place = Tile::offset(chunk.key, 2 * chunk.idx + half);
          uint4 values = widen(ring_.narrow_tile(tile).values + narrow);
          if (take_specials(values)) is_special = true;
          *reinterpret_cast<uint4*>(stage.values + place) = values;
          *reinterpret_cast<uint4*>(stage.keys + place) =
              widen(ring_.narrow_tile(tile).keys + narrow);
        }
      }
    }
    ring_.hand_over(tile, is_special);
  }

  // Whether there were any.
  PHI3_DEVICE static bool take_specials(uint4& values) {
    if (!has_special(values.x) && !has_special(values.y) && !has_special(values.z) &&
        !has_special(values.w)) {
      return false;
    }
    values = make_uint4(without_specials(values.x),
                        without_specials(values.y),
                        without_specials(values.z),
                        without_specials(values.w));
    return true;
  }

  // Eight numbers of fp8.
  PHI3_DEVICE static uint4 widen(const unsigned char* narrow) {
    const uint2 bytes = *reinterpret_cast<const uint2*>(narrow);
    const uint2 low = widen_float8x4(bytes.x);
    const uint2 high = widen_float8x4(bytes.y);
    return make_uint4(low.x, low.y, high.x, high.y);
  }

  Ring& ring_;
  const KeyView& view_;
  SpanPages ids_;
  const Kv* keys_;
  const Kv* values_;
  std::int64_t head_offset_;
  std::int64_t page_stride_;
};

}  // namespace phi3::cuda::sm90
