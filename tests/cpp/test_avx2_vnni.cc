// The integer GEMMs of avx2_vnni, by an instruction that does the same and that more CPUs have:
// CMakeLists.txt compiles them a second time, with AVX-512's encoding of VPDPBUSD.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "cpu/isa.h"

namespace phi3::cpu::avx2_vnni_by_avx512 {
void extend(Kernels& kernels);
}

namespace {

using phi3::PackedWeight;
using phi3::WeightFormat;
using phi3::cpu::Kernels;

constexpr std::int64_t kPanels = 5;

std::vector<float> random(std::int64_t count, std::mt19937& generator) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

std::vector<float> product(const Kernels& isa,
                           const PackedWeight& weight,
                           const std::vector<std::int8_t>& x,
                           std::int64_t num_rows) {
  std::vector<float> out(static_cast<std::size_t>(num_rows * kPanels * 16));
  const phi3::Rows rows{x.data(), phi3::quantized_row_bytes(weight.in_features)};
  const phi3::cpu::GemmBlock gemm(isa, weight);
  gemm(rows, num_rows, 0, 4, out.data(), kPanels * 16);
  gemm(rows, num_rows, 4, 1, out.data() + 64, kPanels * 16);
  return out;
}

void check(WeightFormat format, std::int64_t num_rows, std::int64_t k) {
  std::mt19937 generator(1);
  const auto numbers = random(kPanels * 16 * k, generator);
  std::vector<std::uint8_t> panels(
      static_cast<std::size_t>(kPanels * phi3::panel_bytes(format, k)));
  phi3::cpu::pack({.dtype = phi3::DType::kFloat32,
                   .weight = numbers.data(),
                   .weight_stride = k,
                   .out = panels.data(),
                   .format = format,
                   .row_errors = nullptr,
                   .num_rows = kPanels * 16,
                   .in_features = k,
                   .rows = phi3::PackedRows::kPlain,
                   .qkv = {}});
  const auto activations = random(num_rows * k, generator);
  std::vector<std::int8_t> x(static_cast<std::size_t>(num_rows * phi3::quantized_row_bytes(k)));
  phi3::cpu::quantize({.dtype = phi3::DType::kFloat32,
                       .x = {activations.data(), k * 4},
                       .out = x.data(),
                       .num_tokens = num_rows,
                       .in_features = k});
  const PackedWeight weight{panels.data(), kPanels, k, format};
  Kernels extended = phi3::cpu::avx2::kKernels;
  phi3::cpu::avx2_vnni_by_avx512::extend(extended);
  const auto expected = product(phi3::cpu::portable::kKernels, weight, x, num_rows);
  const auto found = product(extended, weight, x, num_rows);
  EXPECT(std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) == 0);
}

}  // namespace

TEST(all_rows_and_formats_equal_portable) {
  const std::vector<std::string> isas = phi3::cpu::available_isas();
  if (std::find(isas.begin(), isas.end(), "avx512_vnni") == isas.end()) {
    std::printf("skipped: this CPU has no AVX-512 VNNI\n");
    return;
  }
  for (const WeightFormat format : phi3::kWeightFormats) {
    if (!phi3::is_integer(format)) continue;
    for (std::int64_t num_rows = 1; num_rows <= 20; ++num_rows) check(format, num_rows, 300);
    check(format, 96, 1100);
  }
}
