// How the numbers of a packed GEMM weight are stored, and how much room they take.
//
// A panel holds 16 rows of a weight, from k = 0 on. The float formats are their numbers alone:
//   float32   [k][16]
//   bfloat16  [ceil(k/2)][16][2], pairs along k
// The integer formats begin with 64 bytes, a float32 scale s per row, and their numbers are
// unsigned bytes u = v + 128, quads along k, [k/4][16][4]:
//   int8      weight = s · v, v in -127..127
//   int4      weight = s · v with v = (q - z) · S and q in 0..15, for a multiplier S in 1..15 and
//             a zero z in 0..15 per row and group of 32 or 128 of k: progressive group quantization
//             (Lin et al. 2024, arXiv 2405.04532). v fits in a signed byte, so that everything up
//             to the last multiplication is exact in integers. Stored in blocks: 64 bytes with the
//             S and z of some groups, then their q in [k/8][16][4] bytes, a low nibble for one
//             quad, the high one for the next. Those 64 bytes are (S low nibble, z high nibble)
//               group 32 with minimum  [4 groups][16], 128 of k
//               group 32 symmetric     [4 pairs][16], 256 of k: S alone (z is 8), of the even group
//                                      low, of the odd one high
//               group 128              [4 groups][16], 512 of k; z is 8 if symmetric
// Rows and k are padded with zero weights. Nothing depends on the ISA.
//
// That is the layout on a CPU. On CUDA a weight is row-major, [16·ceil(n/16)][round_up(k, 16)],
// zero padded, of float32, bfloat16, or
//   fp8       E4M3 bytes, behind all of them a float32 scale per row: weight = s · value
// of which a CPU has none, as CUDA has none of the integer formats.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "core/dtype.h"

namespace phi3 {

inline constexpr std::int64_t kPanelRows = 16;      // weight rows per packed panel
inline constexpr std::int64_t kRowScaleBytes = 64;  // of a panel of an integer format
inline constexpr int kWeightOffset = 128;           // of a stored byte
inline constexpr std::int64_t kGroupBytes = 64;     // all S and z of a block of an int4 format
inline constexpr std::int64_t kIntegerPadding =
    128;  // int4 panels and activations are padded to it

// Kernels use these too, each compiled for an ISA of its own: no copy of them may be emitted that
// the linker could keep for everyone.
#define PHI3_FORMAT_CONSTANT [[gnu::always_inline]] constexpr

enum class WeightFormat : std::uint8_t {
  kFloat32,
  kBFloat16,
  kInt8,
  kInt4Group32,
  kInt4Group32Min,
  kInt4Group128,
  kInt4Group128Min,
  kFloat8,
};

inline constexpr WeightFormat kWeightFormats[] = {WeightFormat::kFloat32,
                                                  WeightFormat::kBFloat16,
                                                  WeightFormat::kInt8,
                                                  WeightFormat::kInt4Group32,
                                                  WeightFormat::kInt4Group32Min,
                                                  WeightFormat::kInt4Group128,
                                                  WeightFormat::kInt4Group128Min,
                                                  WeightFormat::kFloat8};

inline constexpr std::int64_t kMaxIntegerK =
    std::int64_t{1} << 16;  // of an integer format: 255 · 127 · k stays below 2^31

constexpr std::string_view format_name(WeightFormat format) {
  switch (format) {
    case WeightFormat::kFloat32:
      return "float32";
    case WeightFormat::kBFloat16:
      return "bfloat16";
    case WeightFormat::kInt8:
      return "int8";
    case WeightFormat::kInt4Group32:
      return "int4-g32";
    case WeightFormat::kInt4Group32Min:
      return "int4-g32-min";
    case WeightFormat::kInt4Group128:
      return "int4-g128";
    case WeightFormat::kInt4Group128Min:
      return "int4-g128-min";
    case WeightFormat::kFloat8:
      return "fp8";
  }
  return "?";
}

constexpr std::optional<WeightFormat> find_format(std::string_view name) {
  for (const WeightFormat format : kWeightFormats) {
    if (name == format_name(format)) return format;
  }
  return std::nullopt;
}

PHI3_FORMAT_CONSTANT bool is_float(WeightFormat format) {
  return format == WeightFormat::kFloat32 || format == WeightFormat::kBFloat16;
}

// Whether it meets rows that `quantize` made, and not floats.
PHI3_FORMAT_CONSTANT bool is_integer(WeightFormat format) {
  return !is_float(format) && format != WeightFormat::kFloat8;
}

PHI3_FORMAT_CONSTANT bool is_int4(WeightFormat format) {
  return is_integer(format) && format != WeightFormat::kInt8;
}

// Whether the zero of a group is free, so that its range need not be symmetric.
PHI3_FORMAT_CONSTANT bool has_minimum(WeightFormat format) {
  return format == WeightFormat::kInt4Group32Min || format == WeightFormat::kInt4Group128Min;
}

// k that share an S and z of an int4 format.
PHI3_FORMAT_CONSTANT std::int64_t group_size(WeightFormat format) {
  return format == WeightFormat::kInt4Group32 || format == WeightFormat::kInt4Group32Min ? 32 : 128;
}

PHI3_FORMAT_CONSTANT std::int64_t round_up(std::int64_t size, std::int64_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

// k with its padding.
PHI3_FORMAT_CONSTANT std::int64_t padded_k(WeightFormat format, std::int64_t k) {
  switch (format) {
    case WeightFormat::kFloat32:
      return k;
    case WeightFormat::kBFloat16:
      return round_up(k, 2);
    case WeightFormat::kInt8:
      return round_up(k, 32);
    default:
      return round_up(k, kIntegerPadding);
  }
}

// k of a block of an int4 format; the last one may be shorter.
PHI3_FORMAT_CONSTANT std::int64_t block_k(WeightFormat format) {
  return format == WeightFormat::kInt4Group32Min ? 128
         : format == WeightFormat::kInt4Group32  ? 256
                                                 : 512;
}

// Bytes from the first number of a panel, or of the first block, to that of `k`, which is a
// multiple of 4, for bfloat16 of 2; for int4 of block_k, or all of a panel.
PHI3_FORMAT_CONSTANT std::int64_t number_bytes(WeightFormat format, std::int64_t k) {
  switch (format) {
    case WeightFormat::kFloat32:
      return k * kPanelRows * 4;
    case WeightFormat::kBFloat16:
      return k * kPanelRows * 2;
    case WeightFormat::kInt8:
      return k * kPanelRows;
    default:
      return round_up(k, block_k(format)) / block_k(format) * kGroupBytes + k * kPanelRows / 2;
  }
}

// Where the numbers of a panel, or its blocks, begin.
PHI3_FORMAT_CONSTANT std::int64_t numbers_offset(WeightFormat format) {
  return is_float(format) ? 0 : kRowScaleBytes;
}

// Bytes from the beginning of a panel of an int4 format to the block that has k.
PHI3_FORMAT_CONSTANT std::int64_t block_offset(WeightFormat format, std::int64_t k) {
  return numbers_offset(format) + number_bytes(format, k / block_k(format) * block_k(format));
}

PHI3_FORMAT_CONSTANT std::int64_t panel_bytes(WeightFormat format, std::int64_t k) {
  return numbers_offset(format) + number_bytes(format, padded_k(format, k));
}

// Rows, columns and bytes of a weight on CUDA.
PHI3_FORMAT_CONSTANT std::int64_t cuda_rows(std::int64_t n) { return round_up(n, kPanelRows); }
PHI3_FORMAT_CONSTANT std::int64_t cuda_columns(std::int64_t k) { return round_up(k, 16); }
PHI3_FORMAT_CONSTANT std::int64_t cuda_float8_bytes(std::int64_t n, std::int64_t k) {
  return cuda_rows(n) * (cuda_columns(k) + 4);
}

// Activations that meet an integer weight: per row a header, then k int8 values, zero padded.
// x = scale · value.
struct QuantizedRowHeader {
  float scale;
  std::int32_t sum;  // of the values
};

inline constexpr std::int64_t kQuantizedHeaderBytes = 64;

PHI3_FORMAT_CONSTANT std::int64_t quantized_row_bytes(std::int64_t k) {
  return kQuantizedHeaderBytes + round_up(k, kIntegerPadding);
}

#undef PHI3_FORMAT_CONSTANT

}  // namespace phi3
