// Every op on small ragged shapes with exactly sized memory, mainly for the sanitizers; values
// against plain loops.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "check.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "ops/embedding.h"
#include "ops/head.h"
#include "ops/layer_norm.h"
#include "ops/linear.h"
#include "ops/mlp.h"
#include "ops/pack.h"
#include "ops/rms_norm.h"
#include "tensors.h"

namespace ops = phi3::ops;
using phi3::BFloat16;
using phi3::to_float;
using phi3::test::has_equal_bits;
using phi3::test::is_close;
using phi3::test::kNan;
using phi3::test::Tensor;

namespace {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

template <typename T>
Tensor<T> empty_panels(std::int64_t num_panels, std::int64_t k) {
  if constexpr (sizeof(T) == 2) {
    return Tensor<T>::filled({num_panels, ceil_div(k, 2), 16, 2}, phi3::from_float<T>(kNan));
  } else {
    return Tensor<T>::filled({num_panels, k, 16}, kNan);
  }
}

template <typename T>
Tensor<T> packed(const Tensor<T>& weight) {
  Tensor<T> out = empty_panels<T>(ceil_div(weight.view().size(0), 16), weight.view().size(1));
  ops::pack_linear(weight, out);
  return out;
}

template <typename T>
double dot(const Tensor<T>& x, std::int64_t row, const Tensor<T>& weight, std::int64_t column) {
  const std::int64_t k = weight.view().size(1);
  double sum = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    sum += double{to_float(x[row * k + i])} * to_float(weight[column * k + i]);
  }
  return sum;
}

// Runs `test` for both model dtypes on every ISA with several threads.
template <typename Test>
void for_each_backend(Test test) {
  phi3::cpu::set_num_threads(3);
  for (const std::string& isa : phi3::cpu::available_isas()) {
    phi3::cpu::set_isa(isa);
    test.template operator()<float>(1e-5);
    test.template operator()<BFloat16>(1e-2);
  }
}

}  // namespace

TEST(linear_is_the_product_and_each_row_has_the_bits_it_has_alone) {
  for_each_backend([]<typename T>(double) {
    std::mt19937 generator(1);
    for (const auto& [tokens, k, n] : std::vector<std::array<std::int64_t, 3>>{{1, 1, 1},
                                                                               {2, 15, 16},
                                                                               {3, 16, 17},
                                                                               {7, 33, 65},
                                                                               {13, 64, 130},
                                                                               {50, 31, 70},
                                                                               {97, 5, 40}}) {
      const auto x = Tensor<T>::random({tokens, k}, generator);
      const auto weight = Tensor<T>::random({n, k}, generator);
      const Tensor<T> panels = packed(weight);
      Tensor<float> out({tokens, n});
      ops::linear(x, panels, out, std::nullopt, false);
      for (std::int64_t row = 0; row < tokens; ++row) {
        Tensor<T> single({1, k},
                         {x.values().begin() + row * k, x.values().begin() + (row + 1) * k});
        Tensor<float> alone({1, n});
        ops::linear(single, panels, alone, std::nullopt, false);
        for (std::int64_t column = 0; column < n; ++column) {
          if (std::memcmp(&alone[column], &out[row * n + column], sizeof(float)) != 0) {
            EXPECT_EQ(alone[column], out[row * n + column]);
          }
          if (!is_close(alone[column], dot(x, row, weight, column), 1e-4)) {
            EXPECT_EQ(alone[column], dot(x, row, weight, column));
          }
        }
      }
    }
  });
}

TEST(linear_carries_its_chain_over_blocks_of_k) {
  // Longer than a k block: rows in one tile (one block) and rows in many tiles (several blocks)
  // must agree.
  std::mt19937 generator(2);
  constexpr std::int64_t k = 4500;
  const auto x = Tensor<float>::random({20, k}, generator);
  const auto weight = Tensor<float>::random({16, k}, generator);
  const Tensor<float> panels = packed(weight);
  for (const std::string& isa : phi3::cpu::available_isas()) {
    phi3::cpu::set_isa(isa);
    Tensor<float> out({20, 16});
    ops::linear(x, panels, out, std::nullopt, false);
    Tensor<float> first({1, k}, {x.values().begin(), x.values().begin() + k});
    Tensor<float> alone({1, 16});
    ops::linear(first, panels, alone, std::nullopt, false);
    EXPECT(std::memcmp(&alone[0], &out[0], 16 * sizeof(float)) == 0);
  }
}

TEST(mlp_adds_the_gated_product) {
  for_each_backend([]<typename T>(double tolerance) {
    std::mt19937 generator(3);
    constexpr std::int64_t tokens = 9, hidden = 24, width = 37;
    const auto x = Tensor<T>::random({tokens, hidden}, generator);
    const auto gate_up = Tensor<T>::random({2 * width, hidden}, generator);
    const auto down = Tensor<T>::random({hidden, width}, generator);
    Tensor<T> gate_up_panels = empty_panels<T>(2 * ceil_div(width, 16), hidden);
    ops::pack_gate_up(gate_up, gate_up_panels);
    Tensor<T> act({tokens, width});
    auto h = Tensor<float>::random({tokens, hidden}, generator);
    const std::vector<float> before = h.values();
    ops::mlp(x, gate_up_panels, packed(down), act, h);
    for (std::int64_t row = 0; row < tokens; ++row) {
      for (std::int64_t i = 0; i < width; ++i) {
        const double gate = dot(x, row, gate_up, i);
        const double expected = gate / (1 + std::exp(-gate)) * dot(x, row, gate_up, width + i);
        EXPECT(is_close(to_float(act[row * width + i]), expected, tolerance));
      }
      for (std::int64_t i = 0; i < hidden; ++i) {
        const double expected =
            before[static_cast<std::size_t>(row * hidden + i)] + dot(act, row, down, i);
        EXPECT(is_close(h[row * hidden + i], expected, 1e-4));
      }
    }
  });
}

TEST(mlp_takes_biases_and_the_limits_of_gegelu) {
  for_each_backend([]<typename T>(double tolerance) {
    std::mt19937 generator(6);
    constexpr std::int64_t tokens = 9, hidden = 24, width = 37;
    constexpr double limit = 1.5;
    const auto x = Tensor<T>::random({tokens, hidden}, generator);
    const auto gate_up = Tensor<T>::random({2 * width, hidden}, generator);
    const auto down = Tensor<T>::random({hidden, width}, generator);
    const auto gate_up_bias = Tensor<T>::random({2 * width}, generator);
    const auto down_bias = Tensor<T>::random({hidden}, generator);
    Tensor<T> gate_up_panels = empty_panels<T>(2 * ceil_div(width, 16), hidden);
    ops::pack_gate_up(gate_up, gate_up_panels);
    Tensor<T> act({tokens, width});
    auto h = Tensor<float>::filled({tokens, hidden}, 0.0F);
    ops::mlp(x,
             gate_up_panels,
             packed(down),
             act,
             h,
             gate_up_bias.view(),
             down_bias.view(),
             static_cast<float>(limit));
    for (std::int64_t row = 0; row < tokens; ++row) {
      for (std::int64_t i = 0; i < width; ++i) {
        const double gate = std::min(dot(x, row, gate_up, i) + to_float(gate_up_bias[i]), limit);
        const double up = std::clamp(
            dot(x, row, gate_up, width + i) + to_float(gate_up_bias[width + i]), -limit, limit);
        const double expected = gate / (1 + std::exp(-1.702 * gate)) * (up + 1);
        EXPECT(is_close(to_float(act[row * width + i]), expected, tolerance));
      }
      for (std::int64_t i = 0; i < hidden; ++i) {
        const double expected = dot(act, row, down, i) + to_float(down_bias[i]);
        EXPECT(is_close(h[row * hidden + i], expected, 1e-4));
      }
    }
    EXPECT_ERROR(
        ops::mlp(x, gate_up_panels, packed(down), act, h, std::nullopt, std::nullopt, 0.0F),
        "mlp: gegelu_limit is 0, expected a positive number or infinity");
  });
}

TEST(layer_norm_takes_the_mean_and_the_deviation_away) {
  for_each_backend([]<typename T>(double tolerance) {
    std::mt19937 generator(7);
    constexpr std::int64_t tokens = 70, hidden = 37;
    const auto h = Tensor<float>::random({tokens, hidden}, generator);
    const auto weight = Tensor<T>::random({hidden}, generator);
    const auto bias = Tensor<T>::random({hidden}, generator);
    Tensor<T> out({tokens, hidden});
    ops::layer_norm(h, weight, bias, out, 1e-5F);
    for (std::int64_t row = 0; row < tokens; ++row) {
      const float* values = &h[row * hidden];
      const double mean = std::accumulate(values, values + hidden, 0.0) / hidden;
      double variance = 0;
      for (std::int64_t i = 0; i < hidden; ++i) variance += std::pow(values[i] - mean, 2) / hidden;
      for (std::int64_t i = 0; i < hidden; ++i) {
        const double expected =
            (values[i] - mean) / std::sqrt(variance + 1e-5) * to_float(weight[i]) +
            to_float(bias[i]);
        EXPECT(is_close(to_float(out[row * hidden + i]), expected, tolerance));
      }
    }
  });
}

TEST(lm_head_normalizes_scales_and_forbids) {
  for_each_backend([]<typename T>(double) {
    std::mt19937 generator(8);
    constexpr std::int64_t tokens = 5, hidden = 21, vocab = 67;
    const auto h = Tensor<float>::random({tokens, hidden}, generator);
    const Tensor<std::int32_t> rows({tokens}, {4, 0, 3, 2, 1});
    const auto norm_weight = Tensor<T>::random({hidden}, generator);
    const auto norm_bias = Tensor<T>::random({hidden}, generator);
    const Tensor<T> panels = packed(Tensor<T>::random({vocab, hidden}, generator));
    auto bias = Tensor<T>::filled({vocab}, phi3::from_float<T>(0.5F));
    bias[66] = phi3::from_float<T>(-INFINITY);
    Tensor<T> normed({tokens, hidden});
    Tensor<T> all_normed({tokens, hidden});
    Tensor<float> plain({tokens, vocab});
    Tensor<float> logits({tokens, vocab});
    ops::layer_norm(h, norm_weight, norm_bias, all_normed, 1e-5F);
    ops::lm_head(h, rows, norm_weight, panels, normed, plain, 1e-5F, norm_bias.view());
    ops::lm_head(
        h, rows, norm_weight, panels, normed, logits, 1e-5F, norm_bias.view(), bias.view(), 0.125F);
    for (std::int64_t row = 0; row < tokens; ++row) {
      for (std::int64_t i = 0; i < hidden; ++i) {
        EXPECT_EQ(to_float(normed[row * hidden + i]), to_float(all_normed[rows[row] * hidden + i]));
      }
      for (std::int64_t c = 0; c < vocab; ++c) {
        const float expected = plain[row * vocab + c] * 0.125F + to_float(bias[c]);
        EXPECT_EQ(logits[row * vocab + c], expected);
      }
    }
  });
}

TEST(heads_score_the_rows_they_are_asked_for) {
  for_each_backend([]<typename T>(double tolerance) {
    std::mt19937 generator(4);
    constexpr std::int64_t tokens = 5, hidden = 21, classes = 19, num_rows = 3;
    const auto h = Tensor<float>::random({tokens, hidden}, generator);
    const Tensor<std::int32_t> rows({num_rows}, {4, 0, 4});
    const auto norm_weight = Tensor<T>::random({hidden}, generator);
    const auto weight = Tensor<T>::random({classes, hidden}, generator);
    const auto bias = Tensor<T>::random({classes}, generator);
    const Tensor<T> panels = packed(weight);
    Tensor<T> normed({num_rows, hidden});
    Tensor<float> logits({num_rows, classes});
    Tensor<float> scores({num_rows, classes});
    ops::lm_head(h, rows, norm_weight, panels, normed, logits, 1e-5F);
    ops::classify_head(h, rows, norm_weight, panels, bias.view(), normed, scores, 1e-5F);
    for (std::int64_t row = 0; row < num_rows; ++row) {
      double squares = 0;
      for (std::int64_t i = 0; i < hidden; ++i) {
        squares += std::pow(double{h[rows[row] * hidden + i]}, 2);
      }
      const double factor = 1 / std::sqrt(squares / hidden + 1e-5);
      for (std::int64_t i = 0; i < hidden; ++i) {
        const double expected = h[rows[row] * hidden + i] * factor * to_float(norm_weight[i]);
        EXPECT(is_close(to_float(normed[row * hidden + i]), expected, tolerance));
      }
      for (std::int64_t c = 0; c < classes; ++c) {
        EXPECT(is_close(logits[row * classes + c], dot(normed, row, weight, c), 1e-4));
        EXPECT_EQ(scores[row * classes + c], logits[row * classes + c] + to_float(bias[c]));
      }
    }
    const Tensor<std::int32_t> beyond({num_rows}, {0, 5, 0});
    EXPECT_ERROR(ops::lm_head(h, beyond, norm_weight, panels, normed, logits, 1e-5F),
                 "lm_head: rows[1] is 5, expected 0..4");
  });
}

TEST(embedding_reads_a_table_and_its_panels_alike) {
  for_each_backend([]<typename T>(double) {
    std::mt19937 generator(5);
    constexpr std::int64_t vocab = 35, hidden = 7;
    const auto table = Tensor<T>::random({vocab, hidden}, generator);
    const Tensor<T> panels = packed(table);
    const Tensor<std::int32_t> ids({4}, {34, 0, 16, 15});
    Tensor<float> from_table({4, hidden});
    Tensor<float> from_panels({4, hidden});
    ops::embedding(ids, table, from_table, vocab);
    ops::embedding(ids, panels, from_panels, vocab);
    for (std::int64_t i = 0; i < hidden; ++i) {
      EXPECT_EQ(from_table[i], to_float(table[34 * hidden + i]));
    }
    EXPECT(has_equal_bits(from_table.values(), from_panels.values()));
    Tensor<float> scaled({4, hidden});
    ops::embedding(ids, panels, scaled, vocab, 10.0F);
    for (std::int64_t i = 0; i < scaled.size(); ++i) EXPECT_EQ(scaled[i], 10.0F * from_table[i]);
    const Tensor<std::int32_t> padding(
        {4}, {0, 0, 35, 0});  // the panels have a row 35, the vocabulary has not
    EXPECT_ERROR(ops::embedding(padding, panels, from_panels, vocab),
                 "embedding: token_ids[2] is 35, expected 0..34");
  });
}
