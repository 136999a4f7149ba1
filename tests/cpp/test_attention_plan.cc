#include <algorithm>
#include <cstdint>
#include <set>
#include <tuple>
#include <vector>

#include "check.h"
#include "cuda/attention_plan.h"

using namespace phi3;
using namespace phi3::cuda;

namespace {

constexpr std::int64_t kMiB = 1 << 20;

// Phi-3-mini with a context of 4k: MHA of 32 heads.
AttentionParams mini(std::int64_t num_tokens, std::int64_t num_sequences) {
  AttentionParams params{};
  params.num_tokens = num_tokens;
  params.num_sequences = num_sequences;
  params.table_len = 256;
  params.num_heads = params.num_kv_heads = 32;
  params.head_dim = 96;
  params.workspace.num_bytes = 64 * kMiB;
  return params;
}

AttentionParams with_bytes(AttentionParams params, std::int64_t num_bytes) {
  params.workspace.num_bytes = num_bytes;
  return params;
}

// Queries of the decode kernel, as (sequence, query), for sequences with so many each.
using Queries = std::multiset<std::tuple<std::int64_t, std::int64_t>>;

// What the ranges have of these sequences, as the kernel picks it; and that none of them is more
// than the workspace holds.
Queries covered(const AttentionPlan& plan, const std::vector<std::int64_t>& lens) {
  Queries found;
  plan.for_each_decode_range([&](const DecodeRange& range) {
    std::set<std::int64_t> slots;
    std::int64_t start = 0;
    for (std::int64_t b = 0; b < std::int64_t(lens.size()); start += lens[std::size_t(b++)]) {
      const std::int64_t idx = b - range.first_sequence;
      const std::int64_t num_queries = lens[std::size_t(b)];
      if (idx < 0 || idx >= range.num_sequences) continue;
      if (num_queries > plan.max_decode_queries()) continue;
      for (std::int64_t i = 0; i < num_queries; ++i) {
        if (i < range.first_query || i >= range.end_query) continue;
        if (start + i < range.first_token || start + i >= range.end_token) continue;
        found.insert({b, i});
        const std::int64_t slot =
            range.by_sequence ? idx * (range.end_query - range.first_query) + i - range.first_query
                              : start + i - range.first_token;
        EXPECT(slots.insert(slot).second);
        EXPECT(slot >= 0);
        if (plan.row_spans() > 1) EXPECT(slot < plan.queries_at_once());
      }
    }
  });
  return found;
}

Queries all(const AttentionPlan& plan, const std::vector<std::int64_t>& lens) {
  Queries queries;
  for (std::int64_t b = 0; b < std::int64_t(lens.size()); ++b) {
    if (lens[std::size_t(b)] > plan.max_decode_queries()) continue;
    for (std::int64_t i = 0; i < lens[std::size_t(b)]; ++i) queries.insert({b, i});
  }
  return queries;
}

std::int64_t sum(const std::vector<std::int64_t>& values) {
  std::int64_t total = 0;
  for (const std::int64_t value : values) total += value;
  return total;
}

std::int64_t num_ranges(const AttentionPlan& plan) {
  std::int64_t count = 0;
  plan.for_each_decode_range([&](const DecodeRange&) { ++count; });
  return count;
}

TEST(a_batch_of_single_queries_is_the_decode_kernels_in_one_launch) {
  const AttentionPlan plan(mini(256, 256));
  EXPECT(!plan.has_prefill());
  EXPECT(plan.max_prefill_tiles(64) == 0);
  EXPECT(plan.row_spans() == 16);
  EXPECT(num_ranges(plan) == 1);
}

TEST(every_query_is_in_one_range_and_has_a_slot_of_its_own) {
  const std::vector<std::vector<std::int64_t>> batches = {
      {1, 1, 1, 1, 1}, {5, 0, 1, 0, 0, 0, 0}, {0, 0}, {90, 1, 16, 17, 300}, {1, 2, 3, 4}, {2048}};
  const std::int64_t least = AttentionPlan::workspace_bytes(1, 32, 96, 256);
  const std::int64_t query = AttentionPlan::workspace_bytes(2, 32, 96, 256) - least;
  for (const auto& lens : batches) {
    for (const std::int64_t extra : {0, 1, 2, 5, 16, 40, 4000}) {
      for (const std::int64_t group : {1, 4, 32}) {
        AttentionParams params = mini(sum(lens), std::int64_t(lens.size()));
        params.num_kv_heads = params.num_heads / group;
        const AttentionPlan plan(with_bytes(params, least + extra * query));
        EXPECT(covered(plan, lens) == all(plan, lens));
      }
    }
  }
}

TEST(counters_bound_the_sequences_of_a_launch) {
  const std::vector<std::int64_t> lens(1100, 1);
  const AttentionPlan plan(mini(1100, 1100));
  EXPECT(covered(plan, lens) == all(plan, lens));
  plan.for_each_decode_range([](const DecodeRange& range) {
    EXPECT(range.num_sequences * 32 <= AttentionPlan::kNumCounters);
  });
}

TEST(one_query_with_its_spans_is_the_least_workspace) {
  const std::int64_t least = AttentionPlan::workspace_bytes(1, 32, 96, 256);
  EXPECT(least == 4 * 16384 + 32 * 16 * (96 + 2) * 4);
  EXPECT(AttentionPlan(with_bytes(mini(8, 8), least)).queries_at_once() == 1);
  EXPECT_ERROR(AttentionPlan(with_bytes(mini(8, 8), least - 1)), "attention: workspace has ");
}

TEST(rows_of_one_span_need_no_workspace) {
  AttentionParams params = mini(8, 8);
  params.table_len = 16;
  const AttentionPlan plan(with_bytes(params, 0));
  EXPECT(plan.row_spans() == 1);
  EXPECT(num_ranges(plan) == 1);
}

TEST(a_window_bounds_the_spans_of_a_row) {
  for (std::int64_t window = 1; window <= 1030; ++window) {
    AttentionParams params = mini(1, 1);
    params.window = window;
    std::int64_t most = 0;
    for (std::int64_t begin = 0; begin < 256; ++begin) {
      most = std::max(most, (begin + window - 1) / 256 + 1);
    }
    EXPECT(AttentionPlan(params).row_spans() == most);
  }
}

TEST(decode_takes_what_fills_one_tile_of_rows) {
  AttentionParams params = mini(100, 2);
  const std::tuple<std::int64_t, int> kMost[] = {{1, 16}, {3, 5}, {4, 4}, {16, 1}, {50, 1}};
  for (const auto& [group, most] : kMost) {
    params.num_kv_heads = 2;
    params.num_heads = 2 * group;
    EXPECT(AttentionPlan(params).max_decode_queries() == most);
  }
}

TEST(prefill_tiles_are_enough_for_any_lengths) {
  for (std::int64_t b = 1; b <= 6; ++b) {
    for (std::int64_t t = b + 1; t <= 700; t += 13) {
      const AttentionPlan plan(mini(t, b));
      // One long sequence and others just too long for decode: the most tiles.
      for (std::int64_t short_ones = 0; short_ones < b; ++short_ones) {
        const std::int64_t rest = t - short_ones * (plan.max_decode_queries() + 1);
        if (rest <= plan.max_decode_queries()) continue;
        EXPECT(plan.max_prefill_tiles(64) >= short_ones + (rest + 63) / 64);
      }
    }
  }
}

TEST(blocks_share_the_spans_of_a_row_where_there_are_few_rows) {
  const auto blocks = [](const AttentionPlan& plan) {
    std::int64_t found = 0;
    plan.for_each_decode_range(
        [&](const DecodeRange& range) { found = plan.decode_blocks(range); });
    return found;
  };
  EXPECT(blocks(AttentionPlan(mini(1, 1))) == 16);
  EXPECT(blocks(AttentionPlan(mini(64, 64))) == 4);
  EXPECT(blocks(AttentionPlan(mini(300, 300))) == 1);
}

}  // namespace
