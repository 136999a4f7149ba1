// Ops with weights of integer formats, with exactly sized memory, mainly for the sanitizers; values
// against plain loops over what the weights and the activations stand for.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "check.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "ops/embedding.h"
#include "ops/head.h"
#include "ops/linear.h"
#include "ops/mlp.h"
#include "ops/pack.h"
#include "ops/rms_norm.h"
#include "tensors.h"

namespace ops = phi3::ops;
using phi3::BFloat16;
using phi3::PackedView;
using phi3::to_float;
using phi3::WeightFormat;
using phi3::test::has_equal_bits;
using phi3::test::is_close;
using phi3::test::Tensor;

namespace {

using Bytes = Tensor<std::uint8_t>;
using QuantizedRows = Tensor<std::int8_t>;

struct Packed {
  Bytes data;
  WeightFormat format;
  std::int64_t rows, k;

  PackedView view() const { return {data.view(), format, k}; }
};

Bytes empty_panels(WeightFormat format, std::int64_t num_panels, std::int64_t k) {
  return Bytes::filled({num_panels, phi3::panel_bytes(format, k)}, 0x7b);
}

template <typename T>
Packed pack(const Tensor<T>& weight, WeightFormat format) {
  const std::int64_t rows = weight.view().size(0);
  const std::int64_t k = weight.view().size(1);
  Packed packed{empty_panels(format, (rows + 15) / 16, k), format, rows, k};
  Tensor<float> errors({rows});
  ops::pack_linear(weight, packed.view(), errors.view());
  for (std::int64_t row = 0; row < rows; ++row) EXPECT(errors[row] >= 0 && errors[row] < 0.5F);
  return packed;
}

Tensor<float> unpack(const Packed& packed) {
  Tensor<float> out({packed.rows, packed.k});
  ops::unpack_linear(packed.view(), out);
  return out;
}

template <typename T>
QuantizedRows quantize(const Tensor<T>& x) {
  const std::int64_t k = x.view().size(1);
  auto rows = QuantizedRows::filled({x.view().size(0), phi3::quantized_row_bytes(k)}, 0x7b);
  ops::quantize(x, rows);
  return rows;
}

// Of a quantized row and a row of weights.
double dot(const QuantizedRows& x,
           std::int64_t row,
           const Tensor<float>& weight,
           std::int64_t column) {
  const std::int8_t* values = &x[row * x.view().size(1)];
  phi3::QuantizedRowHeader header;
  std::memcpy(&header, values, sizeof header);
  values += phi3::kQuantizedHeaderBytes;
  const std::int64_t k = weight.view().size(1);
  double sum = 0;
  for (std::int64_t i = 0; i < k; ++i) sum += double{weight[column * k + i]} * values[i];
  return sum * header.scale;
}

// Runs `test` for both model dtypes and all integer formats, on every ISA with several threads.
template <typename Test>
void for_each_format(Test test) {
  phi3::cpu::set_num_threads(3);
  for (const std::string& isa : phi3::cpu::available_isas()) {
    phi3::cpu::set_isa(isa);
    for (const WeightFormat format : phi3::kWeightFormats) {
      if (!phi3::is_integer(format)) continue;
      test.template operator()<float>(format);
      test.template operator()<BFloat16>(format);
    }
  }
}

}  // namespace

TEST(linear_is_the_product_and_each_row_has_the_bits_it_has_alone) {
  for_each_format([]<typename T>(WeightFormat format) {
    std::mt19937 generator(1);
    for (const auto& [tokens, k, n] : std::vector<std::array<std::int64_t, 3>>{
             {1, 1, 1}, {2, 31, 16}, {17, 129, 33}, {97, 300, 65}}) {
      const QuantizedRows x = quantize(Tensor<T>::random({tokens, k}, generator));
      const Packed packed = pack(Tensor<T>::random({n, k}, generator), format);
      const Tensor<float> weight = unpack(packed);
      Tensor<float> out({tokens, n});
      ops::linear(x, packed.view(), out, std::nullopt, false);
      const std::int64_t bytes = x.view().size(1);
      for (std::int64_t row = 0; row < tokens; row += 5) {
        const QuantizedRows single(
            {1, bytes}, {x.values().begin() + row * bytes, x.values().begin() + (row + 1) * bytes});
        Tensor<float> alone({1, n});
        ops::linear(single, packed.view(), alone, std::nullopt, false);
        EXPECT(std::memcmp(&alone[0], &out[row * n], static_cast<std::size_t>(n) * 4) == 0);
        for (std::int64_t column = 0; column < n; ++column) {
          EXPECT(is_close(alone[column], dot(x, row, weight, column), 1e-5));
        }
      }
    }
  });
}

TEST(mlp_quantizes_its_activation) {
  for_each_format([]<typename T>(WeightFormat format) {
    std::mt19937 generator(2);
    constexpr std::int64_t tokens = 19, hidden = 40, width = 37;
    const auto gate_up = Tensor<T>::random({2 * width, hidden}, generator);
    const Bytes gate_up_data = empty_panels(format, 2 * ((width + 15) / 16), hidden);
    const PackedView gate_up_panels(gate_up_data.view(), format, hidden);
    ops::pack_gate_up(gate_up, gate_up_panels);
    Tensor<float> stored({2 * width, hidden});
    ops::unpack_gate_up(gate_up_panels, stored);
    EXPECT(has_equal_bits(stored.values(), unpack(pack(gate_up, format)).values()));

    const Packed down = pack(Tensor<T>::random({hidden, width}, generator), format);
    const QuantizedRows x = quantize(Tensor<T>::random({tokens, hidden}, generator));
    Tensor<T> act({tokens, width});
    QuantizedRows quantized_act({tokens, phi3::quantized_row_bytes(width)});
    auto h = Tensor<float>::filled({tokens, hidden}, 0.0F);
    ops::mlp(x,
             gate_up_panels,
             down.view(),
             act,
             h,
             std::nullopt,
             std::nullopt,
             std::nullopt,
             quantized_act.view());
    const Tensor<float> down_weight = unpack(down);
    for (std::int64_t row = 0; row < tokens; ++row) {
      for (std::int64_t i = 0; i < width; ++i) {
        const double gate = dot(x, row, stored, i);
        const double expected = gate / (1 + std::exp(-gate)) * dot(x, row, stored, width + i);
        EXPECT(is_close(to_float(act[row * width + i]), expected, 1e-2));
      }
      for (std::int64_t i = 0; i < hidden; ++i) {
        EXPECT(is_close(h[row * hidden + i], dot(quantized_act, row, down_weight, i), 1e-5));
      }
    }
    EXPECT_ERROR(ops::mlp(x, gate_up_panels, down.view(), act, h),
                 "mlp: quantized_act is missing with down of format ");
  });
}

TEST(a_tied_head_norms_projects_and_embeds) {
  for_each_format([]<typename T>(WeightFormat format) {
    std::mt19937 generator(3);
    constexpr std::int64_t tokens = 5, hidden = 133, vocab = 35;
    const auto h = Tensor<float>::random({tokens, hidden}, generator);
    const Tensor<std::int32_t> rows({3}, {4, 0, 4});
    const auto norm_weight = Tensor<T>::random({hidden}, generator);
    const Packed head = pack(Tensor<T>::random({vocab, hidden}, generator), format);
    const Tensor<float> weight = unpack(head);
    QuantizedRows normed({3, phi3::quantized_row_bytes(hidden)});
    Tensor<float> logits({3, vocab});
    ops::lm_head(h, rows, norm_weight, head.view(), normed, logits, 1e-5F);
    for (std::int64_t row = 0; row < 3; ++row) {
      for (std::int64_t c = 0; c < vocab; ++c) {
        EXPECT(is_close(logits[row * vocab + c], dot(normed, row, weight, c), 1e-5));
      }
    }
    const Tensor<std::int32_t> ids({2}, {34, 16});
    Tensor<float> embedded({2, hidden});
    ops::embedding(ids, head.view(), embedded, vocab);
    EXPECT(std::memcmp(&embedded[0], &weight[34 * hidden], hidden * sizeof(float)) == 0);
  });
}
