// What the 32 lanes of a warp compute together.
#pragma once

#include <cstdint>
#include <cstring>

namespace phi3::emulator {

// A value of up to 8 bytes per lane; each lane takes that of lane `source`, or its own where there
// is none.
std::uint64_t exchange(const char* what, unsigned mask, std::uint64_t bits, int source);
void sync_warp(unsigned mask);
unsigned vote(unsigned mask, bool predicate);  // bit l: lane l's

template <typename T>
T exchange_value(const char* what, unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(what, mask, bits, source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);

template <int kMatrices>
void load_matrices(const char* what, std::uint32_t (&r)[kMatrices], const void* shared_row);
template <int kMatrices>
void load_matrices_transposed(const char* what,
                              std::uint32_t (&r)[kMatrices],
                              const void* shared_row);

}  // namespace phi3::emulator
