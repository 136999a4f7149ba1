// Key and value tiles on their way from the pages into shared memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/params.h"
#include "cuda/attention_view.cuh"
#include "cuda/ptx.h"

namespace phi3::cuda {

// Two fp8 numbers, the low byte first, as bfloat16.
PHI3_DEVICE std::uint32_t widen_each(std::uint32_t bytes) {
  return pack_bf16x2(to_float(Float8{static_cast<std::uint8_t>(bytes)}),
                     to_float(Float8{static_cast<std::uint8_t>(bytes >> 8)}));
}

// Four. NaN stays NaN.
PHI3_DEVICE uint2 widen_float8x4(std::uint32_t bytes) {
  const uint2 wide = make_uint2(widen_float8x2(static_cast<std::uint16_t>(bytes)),
                                widen_float8x2(static_cast<std::uint16_t>(bytes >> 16)));
  if ((((bytes & 0x7f7f7f7fU) + 0x01010101U) & 0x80808080U) == 0) return wide;
  return make_uint2(widen_each(bytes), widen_each(bytes >> 16));
}

// The block-table entries of one span, a page in each of the first 16 lanes of a warp.
class SpanPages {
 public:
  static constexpr int kBad = -1;

  PHI3_DEVICE SpanPages(const AttentionParams& p, int sequence)
      : table_(p.block_tables + sequence * p.block_table_stride),
        table_len_(static_cast<int>(p.table_len)),
        num_pages_(static_cast<int>(p.num_pages)) {}

  // Page `page` of the tile, or kBad. Called by whole warps.
  PHI3_DEVICE int id_of(int tile, int page) {
    const int span = tile / kSpanTiles;
    if (span != span_) {
      span_ = span;
      const int lane = lane_index();
      const int entry = span * kSpanPages + lane;
      id_ = lane < kSpanPages && entry < table_len_ ? table_[entry] : kBad;
      if (id_ >= num_pages_ || id_ < 0) id_ = kBad;
    }
    return __shfl_sync(kAllLanes, id_, tile % kSpanTiles * kTilePages + page);
  }

 private:
  const std::int32_t* table_;
  int table_len_;
  int num_pages_;
  int span_ = -1;
  int id_ = kBad;
};

// Between rows of bfloat16 in shared memory: no two of 8 share banks.
template <int kHeadDim>
inline constexpr int kRowStride = kHeadDim + 8;

// The tiles of one kv head in order, keys and values by turns: two are on their way while one is
// worked on. `Kv` is what the pages are of; the tiles are bfloat16 [64, kHeadDim], rows
// kRowStride apart. A thread fetches from the pages of its warp's own.
//
// Keys that no row sees are zeros, as are dims from D on. Keys of a page with a bad id are NaN,
// which reaches those rows that see them.
template <typename Kv, int kHeadDim, int kWarps>
class TileRing {
 private:
  static constexpr bool kIsWide = sizeof(Kv) == sizeof(BFloat16);
  static constexpr int kStages = 3;
  static constexpr int kRowBytes =
      kIsWide ? kRowStride<kHeadDim> * 2 : kHeadDim;  // of a fetched tile
  static constexpr int kStageBytes = kTileKeys * kRowBytes;
  static constexpr int kChunkElements = 16 / sizeof(Kv);
  static constexpr int kRowChunks = kHeadDim / kChunkElements;
  static constexpr int kPageKeys = static_cast<int>(kPageSize);

 public:
  static constexpr std::size_t kSharedBytes =
      kStages * kStageBytes + (kIsWide ? 0 : kTileKeys * kRowStride<kHeadDim> * 2);

  // Begins with the tile `first`. No thread may be reading what a ring before it fetched.
  PHI3_DEVICE TileRing(const AttentionParams& p,
                       const KeyView& view,
                       int sequence,
                       int kv_head,
                       const KeyTile& first)
      : p_(p), view_(view), ids_(p, sequence), kv_head_(kv_head) {
    fetch(first, p.k_pages);
    fetch(first, p.v_pages);
  }

  // The keys of the tile whose turn it is, and then its values; `next` is the tile after it. Valid
  // until the next call.
  PHI3_DEVICE const BFloat16* take_keys(const KeyTile& next) { return take(next, p_.k_pages); }
  PHI3_DEVICE const BFloat16* take_values(const KeyTile& next) { return take(next, p_.v_pages); }

 private:
  PHI3_DEVICE static void synchronize() {
    if constexpr (kWarps == 1) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

  PHI3_DEVICE static unsigned char* stage(int idx) { return shared_memory() + idx * kStageBytes; }

  PHI3_DEVICE const BFloat16* take(const KeyTile& next, const void* next_pages) {
    cp_async_wait<1>();
    synchronize();  // all have the tile, and have done with the one before, which gives its stage
    fetch(next, next_pages);
    const unsigned char* tile = stage(taken_);
    taken_ = (taken_ + 1) % kStages;
    if constexpr (kIsWide) {
      return reinterpret_cast<const BFloat16*>(tile);
    } else {
      return widen(tile);
    }
  }

  PHI3_DEVICE void fetch(const KeyTile& tile, const void* pages) {
    if (tile.pages != 0) {
      // Unrolled any further, this would keep addresses in registers that the sums need.
#pragma unroll 1
      for (int page = static_cast<int>(threadIdx.x) / kWarpSize; page < kTilePages;
           page += kWarps) {
        fetch_page(tile, page, pages, stage(fetched_) + page * kPageKeys * kRowBytes);
      }
    }
    cp_async_commit();
    fetched_ = (fetched_ + 1) % kStages;
  }

  PHI3_DEVICE void fetch_page(const KeyTile& tile,
                              int page,
                              const void* pages,
                              unsigned char* out) {
    const int id = ids_.id_of(tile.idx, page);
    const bool is_seen = (tile.pages >> page & 1U) != 0;
    const int first_key = tile.idx * kTileKeys + page * kPageKeys;
    const int head_dim = static_cast<int>(p_.head_dim);
    const std::int64_t place_of_page = id < 0 ? 0 : id * p_.num_kv_heads + kv_head_;
    const Kv* source = static_cast<const Kv*>(pages) + place_of_page * kPageKeys * head_dim;
#pragma unroll 2
    for (int i = 0; i < kPageKeys * kRowChunks / kWarpSize; ++i) {
      const int chunk = i * kWarpSize + lane_index();
      const int key = chunk / kRowChunks;
      const int dim = chunk % kRowChunks * kChunkElements;
      unsigned char* place = out + key * kRowBytes + dim * static_cast<int>(sizeof(Kv));
      if (is_seen && id == SpanPages::kBad) {
        constexpr std::uint32_t kNan = kIsWide ? 0x7fc07fc0U : 0x7f7f7f7fU;
        *reinterpret_cast<uint4*>(place) = make_uint4(kNan, kNan, kNan, kNan);
        continue;
      }
      const bool is_valid = is_seen && view_.has_key(first_key + key) && dim < head_dim;
      cp_async16(place, is_valid ? source + key * head_dim + dim : source, is_valid);
    }
  }

  // A tile of fp8 as bfloat16, behind the stages.
  PHI3_DEVICE const BFloat16* widen(const unsigned char* tile) {
    auto* wide = reinterpret_cast<BFloat16*>(stage(kStages));
    for (int chunk = static_cast<int>(threadIdx.x); chunk < kTileKeys * kRowChunks;
         chunk += kWarps * kWarpSize) {
      const uint4 bytes = *reinterpret_cast<const uint4*>(tile + chunk * 16);
      auto* out = reinterpret_cast<uint4*>(wide + chunk / kRowChunks * kRowStride<kHeadDim> +
                                           chunk % kRowChunks * kChunkElements);
      const uint2 words[4] = {widen_float8x4(bytes.x),
                              widen_float8x4(bytes.y),
                              widen_float8x4(bytes.z),
                              widen_float8x4(bytes.w)};
      out[0] = make_uint4(words[0].x, words[0].y, words[1].x, words[1].y);
      out[1] = make_uint4(words[2].x, words[2].y, words[3].x, words[3].y);
    }
    synchronize();
    return wide;
  }

  const AttentionParams& p_;
  const KeyView& view_;
  SpanPages ids_;
  int kv_head_;
  int fetched_ = 0;  // the stage that the next tile comes to
  int taken_ = 0;    // the stage of the tile whose turn it is
};

}  // namespace phi3::cuda
