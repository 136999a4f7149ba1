// qkv_rope and attention together: pages written by one, read by the other, in any page order, with
// NaN in every key that nobody wrote.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "check.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "ops/attention.h"
#include "ops/pack.h"
#include "ops/qkv_rope.h"
#include "tensors.h"

namespace ops = phi3::ops;
using phi3::BFloat16;
using phi3::to_float;
using phi3::test::kNan;
using phi3::test::Tensor;

namespace {

constexpr std::int64_t kHeads = 4, kKvHeads = 2, kHeadDim = 32, kRotary = 24, kHidden = 20;
constexpr std::int64_t kPages = 40, kContext = 530;  // more than two spans of 256 keys
constexpr std::int64_t kMaxBlocks = (kContext + 15) / 16;

// One sequence whose keys 0..kContext-1 are in shuffled pages.
template <typename T>
struct Sequence {
  explicit Sequence(unsigned seed) {
    std::mt19937 generator(seed);
    std::vector<std::int32_t> pages(kPages);
    std::iota(pages.begin(), pages.end(), 0);
    std::shuffle(pages.begin(), pages.end(), generator);
    std::copy_n(pages.begin(), kMaxBlocks, &block_table[0]);

    std::mt19937 values(7);  // the same numbers for every page order
    const auto x = Tensor<T>::random({kContext, kHidden}, values);
    const auto weight = Tensor<T>::random({(kHeads + 2 * kKvHeads) * kHeadDim, kHidden}, values);
    const auto table = Tensor<float>::random({1, kContext, kRotary / 2, 2}, values);
    Tensor<T> packed = [] {
      const std::int64_t panels = (kHeads + 2 * kKvHeads) * kHeadDim / 16;
      if constexpr (sizeof(T) == 2) {
        return Tensor<T>({panels, kHidden / 2, 16, 2});
      } else {
        return Tensor<T>({panels, kHidden, 16});
      }
    }();
    ops::pack_linear(weight, packed);
    Tensor<std::int32_t> positions({kContext});
    Tensor<std::int32_t> slots({kContext});
    const auto sets = Tensor<std::int32_t>::filled({kContext}, 0);
    for (std::int32_t t = 0; t < kContext; ++t) {
      positions[t] = t;
      slots[t] = block_table[t / 16] * 16 + t % 16;
    }
    ops::qkv_rope(x, packed, positions, sets, table, slots, k_pages, v_pages, q);
    const phi3::KvScales scales{.k = k_scales, .v = v_scales};
    ops::qkv_rope(x, packed, positions, sets, table, slots, k_int8, v_int8, q, scales);
  }

  static Tensor<T> nan_pages(bool is_key) {
    const T nan = phi3::from_float<T>(kNan);
    if (!is_key) return Tensor<T>::filled({kPages, kKvHeads, 16, kHeadDim}, nan);
    if constexpr (sizeof(T) == 2) {
      return Tensor<T>::filled({kPages, kKvHeads, kHeadDim / 2, 16, 2}, nan);
    } else {
      return Tensor<T>::filled({kPages, kKvHeads, kHeadDim, 16}, nan);
    }
  }

  double key(std::int64_t j, std::int64_t head, std::int64_t d) const {
    constexpr std::int64_t kPair = sizeof(T) == 2 ? 2 : 1;
    const std::int64_t page = (block_table[j / 16] * kKvHeads + head) * 16 * kHeadDim;
    return to_float(k_pages[page + (d / kPair * 16 + j % 16) * kPair + d % kPair]);
  }
  double value(std::int64_t j, std::int64_t head, std::int64_t d) const {
    const std::int64_t page = (block_table[j / 16] * kKvHeads + head) * 16 * kHeadDim;
    return to_float(v_pages[page + j % 16 * kHeadDim + d]);
  }

  // Attention of queries [begin, end) as one call, over the model's dtype or int8.
  std::vector<T> attend(std::int64_t begin,
                        std::int64_t end,
                        std::int64_t window,
                        bool is_int8 = false,
                        std::optional<phi3::BlockSparse> sparse = std::nullopt) const {
    const auto width = kHeads * kHeadDim;
    const Tensor<T> queries({end - begin, kHeads, kHeadDim},
                            {q.values().begin() + begin * width, q.values().begin() + end * width});
    const Tensor<std::int32_t> starts({2}, {0, static_cast<std::int32_t>(end - begin)});
    const Tensor<std::int32_t> context({1}, {static_cast<std::int32_t>(end)});
    Tensor<T> out({end - begin, width});
    std::optional<phi3::KvScales> scales;
    if (is_int8) scales = {.k = k_scales, .v = v_scales};
    ops::attention(queries,
                   is_int8 ? k_int8.view() : k_pages.view(),
                   is_int8 ? v_int8.view() : v_pages.view(),
                   block_table,
                   starts,
                   context,
                   out,
                   window,
                   0.2F,
                   scales,
                   sparse);
    return out.values();
  }

  Tensor<std::int32_t> block_table{1, kMaxBlocks};
  Tensor<T> k_pages = nan_pages(true);
  Tensor<T> v_pages = nan_pages(false);
  Tensor<std::int8_t> k_int8{kPages, kKvHeads, kHeadDim, 16};
  Tensor<std::int8_t> v_int8{kPages, kKvHeads, 16, kHeadDim};
  Tensor<float> k_scales = Tensor<float>::filled({kPages, kKvHeads, 16}, kNan);
  Tensor<float> v_scales = Tensor<float>::filled({kPages, kKvHeads, 16}, kNan);
  Tensor<T> q{kContext, kHeads, kHeadDim};
};

// Keys up to `pos` that a head sees.
std::vector<std::int64_t> seen_keys(std::int64_t pos,
                                    std::int64_t head,
                                    std::int64_t window,
                                    const std::optional<phi3::BlockSparse>& sparse) {
  std::vector<std::int64_t> keys;
  for (std::int64_t j = 0; j <= pos; ++j) {
    if (window > 0 && j <= pos - window) continue;
    if (sparse) {
      const std::int64_t block = j / sparse->block_size;
      const bool is_local = pos / sparse->block_size - block < sparse->num_local_blocks;
      const bool is_vertical =
          (block + head * sparse->head_step + 1) % sparse->vertical_stride == 0;
      if (!is_local && !is_vertical) continue;
    }
    keys.push_back(j);
  }
  return keys;
}

template <typename T>
std::vector<double> expected_row(const Sequence<T>& sequence,
                                 std::int64_t pos,
                                 std::int64_t window,
                                 const std::optional<phi3::BlockSparse>& sparse = std::nullopt) {
  std::vector<double> out;
  for (std::int64_t head = 0; head < kHeads; ++head) {
    const std::int64_t kv_head = head / (kHeads / kKvHeads);
    const std::vector<std::int64_t> keys = seen_keys(pos, head, window, sparse);
    std::vector<double> weights;
    double total = 0;
    for (const std::int64_t j : keys) {
      double score = 0;
      for (std::int64_t d = 0; d < kHeadDim; ++d) {
        score += to_float(sequence.q[(pos * kHeads + head) * kHeadDim + d]) *
                 sequence.key(j, kv_head, d);
      }
      weights.push_back(score * 0.2);
    }
    const double max = *std::max_element(weights.begin(), weights.end());
    for (double& weight : weights) total += weight = std::exp(weight - max);
    for (std::int64_t d = 0; d < kHeadDim; ++d) {
      double sum = 0;
      for (std::size_t i = 0; i < keys.size(); ++i) {
        sum += weights[i] * sequence.value(keys[i], kv_head, d);
      }
      out.push_back(sum / total);
    }
  }
  return out;
}

// The largest relative error of a row of attend's output.
template <typename T>
double error_of_row(const std::vector<T>& out,
                    std::int64_t row,
                    const std::vector<double>& expected) {
  double worst = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double actual = to_float(out[static_cast<std::size_t>(row) * expected.size() + i]);
    const double error = std::abs(actual - expected[i]) / (1 + std::abs(expected[i]));
    worst = error <= worst ? worst : error;  // a NaN becomes the worst
  }
  return worst;
}

constexpr phi3::BlockSparse kSparse{
    .block_size = 32, .num_local_blocks = 2, .vertical_stride = 3, .head_step = 1};

template <typename Test>
void for_each_backend(Test test) {
  phi3::cpu::set_num_threads(3);
  for (const std::string& isa : phi3::cpu::available_isas()) {
    phi3::cpu::set_isa(isa);
    test.template operator()<float>(2e-4);
    test.template operator()<BFloat16>(2e-2);
  }
}

}  // namespace

TEST(attention_equals_softmax_over_the_visible_keys) {
  for_each_backend([]<typename T>(double tolerance) {
    const Sequence<T> sequence(1);
    for (const std::int64_t window : {0, 1, 20, 300}) {
      const std::vector<T> out = sequence.attend(0, kContext, window);
      for (const std::int64_t pos : {0, 1, 15, 16, 255, 256, 257, 400, 511, 512, 529}) {
        EXPECT(error_of_row(out, pos, expected_row(sequence, pos, window)) < tolerance);
      }
    }
  });
}

TEST(block_sparse_attention_equals_softmax_over_the_visible_keys) {
  for_each_backend([]<typename T>(double tolerance) {
    const Sequence<T> sequence(1);
    const std::vector<T> out = sequence.attend(0, kContext, 0, false, kSparse);
    for (const std::int64_t pos : {0, 31, 32, 63, 64, 95, 96, 255, 256, 400, 512, 529}) {
      EXPECT(error_of_row(out, pos, expected_row(sequence, pos, 0, kSparse)) < tolerance);
    }
  });
}

TEST(attention_over_int8_is_close_to_attention_over_the_model_dtype) {
  for_each_backend([]<typename T>(double) {
    const Sequence<T> sequence(1);
    for (const std::int64_t window : {0, 20}) {
      const std::vector<T> exact = sequence.attend(0, kContext, window);
      const std::vector<T> found = sequence.attend(0, kContext, window, true);
      double error = 0;
      double size = 0;
      for (std::size_t i = 0; i < exact.size(); ++i) {
        error += std::pow(to_float(found[i]) - to_float(exact[i]), 2);
        size += std::pow(to_float(exact[i]), 2);
      }
      EXPECT(error < 0.05 * 0.05 * size);
    }
  });
}

TEST(attention_has_the_same_bits_in_any_chunk_and_page_order) {
  for_each_backend([]<typename T>(double) {
    const Sequence<T> sequence(1);
    const Sequence<T> other_pages(2);
    struct Case {
      std::int64_t window;
      bool is_int8;
      std::optional<phi3::BlockSparse> sparse;
    };
    for (const auto& [window, is_int8, sparse] : {Case{0, false, {}},
                                                  {300, false, {}},
                                                  {0, false, kSparse},
                                                  {0, true, {}},
                                                  {300, true, {}},
                                                  {0, true, kSparse}}) {
      const std::vector<T> whole = sequence.attend(0, kContext, window, is_int8, sparse);
      EXPECT(phi3::test::has_equal_bits(whole,
                                        other_pages.attend(0, kContext, window, is_int8, sparse)));
      for (const auto& [begin, end] : std::vector<std::pair<std::int64_t, std::int64_t>>{
               {0, 1}, {10, 17}, {250, 260}, {100, 400}, {529, 530}}) {
        const std::vector<T> chunk = sequence.attend(begin, end, window, is_int8, sparse);
        const std::size_t bytes = chunk.size() * sizeof(T);
        EXPECT(std::memcmp(chunk.data(), whole.data() + begin * kHeads * kHeadDim, bytes) == 0);
      }
    }
  });
}

TEST(attention_refuses_a_page_out_of_range_only_where_it_looks) {
  Sequence<float> sequence(1);
  sequence.block_table[0] = -1;  // outside the window of the last query
  EXPECT_EQ(sequence.attend(529, 530, 100).size(), std::size_t{kHeads * kHeadDim});
  EXPECT_ERROR(sequence.attend(529, 530, 0), "attention: block_tables[0, 0] is -1, expected 0..39");
  sequence.block_table[33] = kPages;
  EXPECT_ERROR(sequence.attend(529, 530, 100),
               "attention: block_tables[0, 33] is 40, expected 0..39");
}

TEST(block_sparse_attention_refuses_a_page_out_of_range_only_where_it_looks) {
  Sequence<float> sequence(1);
  constexpr phi3::BlockSparse kOnePattern{
      .block_size = 32, .num_local_blocks = 2, .vertical_stride = 3, .head_step = 0};
  sequence.block_table[2] = -1;  // of block 1, which query block 16 does not see
  EXPECT_EQ(sequence.attend(529, 530, 0, false, kOnePattern).size(),
            std::size_t{kHeads * kHeadDim});
  sequence.block_table[4] = -1;  // of block 2, which it sees
  EXPECT_ERROR(sequence.attend(529, 530, 0, false, kOnePattern),
               "attention: block_tables[0, 4] is -1, expected 0..39");
  EXPECT_ERROR(sequence.attend(529, 530, 5, false, kOnePattern),
               "attention: window is 5, expected 0 with block_sparse");
}
