// The layout of a matrix in shared memory as wgmma reads it, and the descriptors that say so.
#pragma once

#include <cstdint>

namespace phi3::cuda::sm90 {

// kRows rows of kColumns bfloat16s. Columns are cut in bands of 128 or 64 bytes, one after the
// other; a band holds its part of every row. Within it the 16-byte pieces of a row are swizzled:
// eight rows' pieces of the same columns lie in different banks. Begins at a multiple of
// kAlignment, since it is the address that the hardware swizzles.
template <int kRows, int kColumns>
struct SwizzledTile {
  static constexpr int kBandBytes = kColumns % 64 == 0 ? 128 : 64;
  static constexpr int kBandPieces = kBandBytes / 16;
  static constexpr int kRowPieces = kColumns / 8;
  static constexpr int kBytes = kRows * kColumns * 2;
  static constexpr int kAlignment = 8 * kBandBytes;
  static_assert(kRows % 8 == 0 && kColumns % 32 == 0);

  // In bytes, of columns 8·piece to 8·piece + 7.
  static constexpr int offset(int row, int piece) {
    const int swizzle = row * kBandBytes / 128 % kBandPieces;
    return piece / kBandPieces * (kRows * kBandBytes) + row * kBandBytes +
           (piece % kBandPieces ^ swizzle) * 16;
  }

  // A factor whose depth is the 16 columns from `column` and whose columns are all rows (at most
  // 256) of the tile at `address` of shared memory.
  static constexpr std::uint64_t over_columns(std::uint32_t address, int column) {
    const int band = column * 2 / kBandBytes;
    const int start = band * (kRows * kBandBytes) + column * 2 % kBandBytes;
    return descriptor(address, 16) + (start >> 4);
  }

  // A factor, transposed, whose depth is the 16 rows from `row` and whose columns are the tile's.
  static constexpr std::uint64_t over_rows(std::uint32_t address, int row) {
    return descriptor(address, kRows * kBandBytes) + (row * kBandBytes >> 4);
  }

 private:
  // PTX ISA, "matrix descriptor": the start, the step from band to band (not used where a band is
  // as wide as the factor's depth) and from eight rows to the next, in units of 16 bytes, and the
  // kind of the swizzle.
  static constexpr std::uint64_t descriptor(std::uint32_t address, int band_step) {
    constexpr std::uint64_t kSwizzle = kBandBytes == 128 ? 1 : 2;
    const auto field = [](std::uint32_t bytes) {
      return static_cast<std::uint64_t>(bytes >> 4 & 0x3fff);
    };
    return field(address) | field(static_cast<std::uint32_t>(band_step)) << 16 |
           field(8 * kBandBytes) << 32 | kSwizzle << 62;
  }
};

}  // namespace phi3::cuda::sm90
