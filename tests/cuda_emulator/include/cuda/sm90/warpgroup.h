// csrc/cuda/sm90/warpgroup.h for the emulator: same names and contracts.
#pragma once

#include <cstdint>

#include "cuda/ptx.h"
#include "emulator/threads.h"

namespace phi3::cuda::sm90 {

template <int kRegisters>
PHI3_DEVICE void shrink_registers() {
  static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0);
  emulator::meet_warpgroup("shrink_registers", nullptr, nullptr);
}
template <int kRegisters>
PHI3_DEVICE void grow_registers() {
  static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0);
  emulator::meet_warpgroup("grow_registers", nullptr, nullptr);
}

PHI3_DEVICE void fence_for_wgmma() {}

struct alignas(std::uint64_t) Mbarrier {
  static constexpr std::uint16_t kLive = 0xba44;  // poison is none

  std::uint16_t mark;
  std::uint16_t arrivals, pending;
  std::uint16_t parity;  // of the phase under way
};

namespace detail {

inline void check_live(const Mbarrier& barrier) {
  emulator::shared_address(&barrier, sizeof(Mbarrier), sizeof(std::uint64_t));
  if (barrier.mark != Mbarrier::kLive) emulator::fail("uses an mbarrier before its init");
}

}  // namespace detail

PHI3_DEVICE void mbarrier_init(Mbarrier& barrier, std::uint32_t arrivals) {
  const auto count = static_cast<std::uint16_t>(arrivals);
  barrier = {Mbarrier::kLive, count, count, 0};
  detail::check_live(barrier);
}

PHI3_DEVICE void mbarrier_arrive(Mbarrier& barrier) {
  detail::check_live(barrier);
  if (--barrier.pending > 0) return;
  barrier.pending = barrier.arrivals;
  barrier.parity ^= 1;
}

PHI3_DEVICE void mbarrier_wait(Mbarrier& barrier, std::uint32_t parity) {
  detail::check_live(barrier);
  struct Wait {
    const Mbarrier& barrier;
    std::uint32_t parity;
  };
  const Wait wait{barrier, parity};
  emulator::wait_until(
      "mbarrier_wait",
      [](const void* argument) {
        const Wait& asked = *static_cast<const Wait*>(argument);
        return asked.barrier.parity != asked.parity;
      },
      &wait);
}

}  // namespace phi3::cuda::sm90
