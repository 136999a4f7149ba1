// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3" (2011).
#pragma once

#include <array>
#include <cstdint>

namespace phi3 {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

constexpr PhiloxCounter philox(PhiloxCounter counter, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53U} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57U} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(a)};
    key = {key[0] + 0x9E3779B9U, key[1] + 0xBB67AE85U};
  }
  return counter;
}

// The 24 bits that decide a token: the uniform number is bits · 2^-24.
constexpr std::uint32_t draw_bits(std::int64_t seed,
                                  std::int32_t sequence_idx,
                                  std::int32_t position) {
  const auto bits = static_cast<std::uint64_t>(seed);
  const PhiloxKey key = {static_cast<std::uint32_t>(bits), static_cast<std::uint32_t>(bits >> 32)};
  const PhiloxCounter counter = {
      static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(sequence_idx), 0, 0};
  return philox(counter, key)[0] >> 8;
}

}  // namespace phi3
