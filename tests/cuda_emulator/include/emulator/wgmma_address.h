// Where wgmma reads a factor in shared memory: the canonical layouts of PTX ISA, "matrix
// descriptor" and "strides", for elements of two bytes.
#pragma once

#include <cstdint>

namespace phi3::emulator {

constexpr std::uint32_t descriptor_bytes(std::uint64_t descriptor, int shift) {
  return static_cast<std::uint32_t>(descriptor >> shift & 0x3fff) << 4;
}

// Swizzled over 128, 64 or 32 bytes and not from the middle of a pattern: what is emulated.
constexpr bool is_plain_descriptor(std::uint64_t descriptor) {
  return descriptor >> 62 != 0 && (descriptor >> 49 & 7) == 0;
}

// Of an element of a factor 16 deep. What its two strides are depends on which of depth and columns
// lies side by side; the swizzle is one of whole addresses.
constexpr std::uint32_t wgmma_address(std::uint64_t descriptor,
                                      bool is_transposed,
                                      std::uint32_t depth,
                                      std::uint32_t column) {
  const std::uint32_t start = descriptor_bytes(descriptor, 0);
  const std::uint32_t leading = descriptor_bytes(descriptor, 16);
  const std::uint32_t stride = descriptor_bytes(descriptor, 32);
  const auto swizzled_bits = 4 - static_cast<int>(descriptor >> 62);
  const std::uint32_t band = 16U << swizzled_bits;
  const std::uint32_t offset = is_transposed ? column * 2 % band + column * 2 / band * leading +
                                                   depth % 8 * band + depth / 8 * stride
                                             : depth * 2 + column % 8 * band + column / 8 * stride;
  const std::uint32_t address = start + offset;
  const std::uint32_t mask = (1U << swizzled_bits) - 1;
  return address ^ (address >> 7 & mask) << 4;
}

}  // namespace phi3::emulator
