// csrc/cuda/sm90/wgmma.h for the emulator: same names and contracts.
#pragma once

#include <cstdint>

#include "cuda/ptx.h"
#include "emulator/wgmma.h"

namespace phi3::cuda::sm90 {

inline constexpr int kWarpgroupSize = emulator::kWarpgroupSize;

template <typename... Registers>
PHI3_DEVICE void wgmma_fence(const Registers&...) {
  emulator::fence_wgmmas();
}

PHI3_DEVICE void wgmma_commit() { emulator::commit_wgmmas(); }

template <int kPending, int... kGroups>
PHI3_DEVICE void wgmma_wait([[maybe_unused]] float (&... d)[kGroups][4]) {
  emulator::wait_for_wgmmas(kPending);
}

template <bool kTransposed, int kGroups>
PHI3_DEVICE void wgmma_k16(float (&d)[kGroups][4],
                           const std::uint32_t (&a)[4],
                           std::uint64_t b,
                           bool accumulate) {
  static_assert(kGroups == 8 || kGroups == 12 || kGroups == 16);
  emulator::issue_wgmma({&d[0][0], kGroups, a, 0, b, kTransposed, accumulate});
}

PHI3_DEVICE void wgmma_k16(float (&d)[8][4], std::uint64_t a, std::uint64_t b, bool accumulate) {
  emulator::issue_wgmma({&d[0][0], 8, nullptr, a, b, false, accumulate});
}

}  // namespace phi3::cuda::sm90
