// Which tokens of a row come first, without sorting the row.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/first_reaching.cuh"
#include "cuda/logits_row.cuh"
#include "cuda/reduce.cuh"

namespace phi3::cuda {

// What a ranking, (id, logit) -> Ranked, says of a token: its place, 0 if it takes no part, and
// what it adds to a limit, a whole number so that sums do not depend on an order.
struct Ranked {
  std::uint64_t place;
  std::uint64_t measure;
};

inline constexpr int kListSize = 4096;
inline constexpr int kSections = 8;

// Shared memory of a block that selects.
struct SelectBlock {
  std::uint64_t list[kListSize];
  std::uint64_t partials[kSections * kMaxWarps];
  unsigned count;
};

// Places from `lowest` up to but not `end`, and what is known of them.
struct PlaceRange {
  std::uint64_t lowest;
  std::uint64_t end;
  std::uint64_t above = 0;  // sum of the measures of places from `end` on
  std::uint64_t count = 0;

  PHI3_DEVICE bool has(std::uint64_t place) const { return place >= lowest && place < end; }
};

inline constexpr std::uint64_t kAllPlaces = ~std::uint64_t{0};

// Lists the places of the range, in no certain order, and returns how many there are, also if they
// are more than fit.
template <typename Ranking>
PHI3_DEVICE unsigned gather(const LogitsRow& row,
                            const Ranking& ranking,
                            const PlaceRange& range,
                            SelectBlock& block) {
  __syncthreads();  // the last list was read
  if (threadIdx.x == 0) block.count = 0;
  __syncthreads();
  for (int base = 0; base < row.vocab_size(); base += static_cast<int>(blockDim.x)) {
    const int id = base + static_cast<int>(threadIdx.x);
    const std::uint64_t place = id < row.vocab_size() ? ranking(id, row[id]).place : 0;
    const unsigned listed = __ballot_sync(kAllLanes, range.has(place));
    if (listed == 0) continue;
    unsigned first = 0;
    if (lane_idx() == 0) first = atomicAdd(&block.count, static_cast<unsigned>(__popc(listed)));
    first = __shfl_sync(kAllLanes, first, 0);
    const unsigned slot = first + static_cast<unsigned>(__popc(listed & ((1U << lane_idx()) - 1)));
    if (range.has(place) && slot < kListSize) block.list[slot] = place;
  }
  __syncthreads();
  return block.count;
}

// Sorts the first `count` places of the list, the largest first (bitonic, Batcher 1968).
PHI3_DEVICE void sort_list(SelectBlock& block, unsigned count) {
  unsigned size = 1;
  while (size < count) size *= 2;
  for (unsigned i = count + threadIdx.x; i < size; i += blockDim.x) block.list[i] = 0;
  __syncthreads();
  for (unsigned run = 2; run <= size; run *= 2) {
    for (unsigned step = run / 2; step > 0; step /= 2) {
      for (unsigned pair = threadIdx.x; pair < size / 2; pair += blockDim.x) {
        const unsigned low = 2 * pair - (pair & (step - 1));
        const std::uint64_t a = block.list[low];
        const std::uint64_t b = block.list[low + step];
        if ((a < b) == ((low & run) == 0)) {
          block.list[low] = b;
          block.list[low + step] = a;
        }
      }
      __syncthreads();
    }
  }
}

// The section of a range, of eight, in which the measures from above reach the limit.
template <typename Ranking>
PHI3_DEVICE PlaceRange narrow(const LogitsRow& row,
                              const Ranking& ranking,
                              const PlaceRange& range,
                              std::uint64_t limit,
                              SelectBlock& block) {
  int shift = 0;
  while ((range.end - range.lowest - 1) >> shift >= kSections) ++shift;
  // Of the places of each section and those above it in the range.
  std::uint64_t sums[kSections] = {};
  std::uint32_t counts[kSections] = {};
  row.for_each([&](int id, float logit) {
    const Ranked token = ranking(id, logit);
    if (!range.has(token.place)) return;
    const int section = static_cast<int>((token.place - range.lowest) >> shift);
    for (int i = 0; i < kSections; ++i) {
      sums[i] += section >= i ? token.measure : 0;
      counts[i] += section >= i ? 1 : 0;
    }
  });
  reduce_block(sums, block.partials, Plus{});
  reduce_block(counts, reinterpret_cast<std::uint32_t*>(block.partials), Plus{});
  PlaceRange narrowed = range;
  for (int i = 0; i < kSections; ++i) {  // the last one that reaches it stays
    if (range.above + sums[i] < limit) continue;
    const bool is_last = i + 1 == kSections;
    narrowed.lowest = range.lowest + (static_cast<std::uint64_t>(i) << shift);
    narrowed.end = range.end - narrowed.lowest > std::uint64_t{1} << shift
                       ? narrowed.lowest + (std::uint64_t{1} << shift)
                       : range.end;
    narrowed.above = range.above + (is_last ? 0 : sums[(i + 1) % kSections]);
    narrowed.count = counts[i] - (is_last ? 0 : counts[(i + 1) % kSections]);
  }
  return narrowed;
}

// The place at which the measures reach `limit`, summed from the largest place on. Those from
// `lowest` on must reach it.
template <typename Ranking>
PHI3_DEVICE std::uint64_t select(const LogitsRow& row,
                                 const Ranking& ranking,
                                 std::uint64_t limit,
                                 SelectBlock& block,
                                 std::uint64_t lowest = 1) {
  PlaceRange range{.lowest = std::max<std::uint64_t>(lowest, 1), .end = kAllPlaces};
  range.count = gather(row, ranking, range, block);
  if (range.count > kListSize) {
    do {
      range = narrow(row, ranking, range, limit, block);
    } while (range.count > kListSize);
    gather(row, ranking, range, block);
  }
  const auto count = static_cast<unsigned>(range.count);
  sort_list(block, count);
  const auto measure_at = [&](int position) {
    const int id = id_of_place(block.list[position]);
    return ranking(id, row[id]).measure;
  };
  return block.list[first_reaching(
      static_cast<int>(count), limit - range.above, block.partials, measure_at)];
}

// Ranks tokens by their logits, and counts them.
struct ByLogit {
  PHI3_DEVICE Ranked operator()(int id, float logit) const {
    return {place_of(order_of(logit), id), 1};
  }
};

// A place that k tokens of the row reach, and in all likelihood few more: the k-th of the best ones
// of each thread. 1 where that is no help.
PHI3_DEVICE std::uint64_t low_place_of_top(const LogitsRow& row,
                                           std::uint64_t k,
                                           SelectBlock& block) {
  if (row.vocab_size() <= kListSize || k > blockDim.x) return 1;
  __syncthreads();  // the last list was read
  block.list[threadIdx.x] = best_of_thread(row);
  __syncthreads();
  sort_list(block, blockDim.x);
  return block.list[k - 1];
}

// Lists and sorts the places of some of the best tokens below `end`, all from some place on, and
// returns how many: at least `wanted` where the list holds as many, else at least half a list.
PHI3_DEVICE unsigned list_top(const LogitsRow& row,
                              std::uint64_t wanted,
                              std::uint64_t end,
                              SelectBlock& block) {
  PlaceRange range{.lowest = 1, .end = end};
  if (end == kAllPlaces) range.lowest = low_place_of_top(row, wanted, block);
  unsigned count = gather(row, ByLogit{}, range, block);
  if (count > kListSize) {
    PlaceRange part = range;
    do {
      part = narrow(row, ByLogit{}, part, kListSize / 2, block);
    } while (part.above + part.count > kListSize);
    range.lowest = part.lowest;
    count = gather(row, ByLogit{}, range, block);
  }
  sort_list(block, count);
  return count;
}

}  // namespace phi3::cuda
