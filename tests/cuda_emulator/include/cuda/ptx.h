// csrc/cuda/ptx.h for the emulator: same names and contracts.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/dtype.h"
#include "emulator/threads.h"
#include "emulator/warp.h"

#define PHI3_HOST_DEVICE __host__ __device__ __forceinline__
#define PHI3_DEVICE __device__ __forceinline__

namespace phi3::cuda {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kAllLanes = 0xffffffffU;

PHI3_DEVICE unsigned char* shared_memory() { return emulator::shared_memory(); }

PHI3_DEVICE std::uint32_t shared_address(const void* shared) {
  return emulator::shared_address(shared, 0, 1);
}

PHI3_DEVICE void mma_m16n8k16(float (&d)[4],
                              const std::uint32_t (&a)[4],
                              const std::uint32_t (&b)[2]) {
  emulator::mma_m16n8k16(d, a, b);
}

PHI3_DEVICE void ldmatrix_x4(std::uint32_t (&r)[4], const void* shared_row) {
  emulator::load_matrices<4>("ldmatrix_x4", r, shared_row);
}
PHI3_DEVICE void ldmatrix_x2(std::uint32_t (&r)[2], const void* shared_row) {
  emulator::load_matrices<2>("ldmatrix_x2", r, shared_row);
}
PHI3_DEVICE void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* shared_row) {
  emulator::load_matrices_transposed<4>("ldmatrix_x4_trans", r, shared_row);
}

PHI3_DEVICE void cp_async16(void* shared, const void* global, bool is_valid = true) {
  emulator::copy_async(shared, global, is_valid);
}
PHI3_DEVICE void cp_async16_once(void* shared, const void* global, bool is_valid = true) {
  emulator::copy_async(shared, global, is_valid);
}
PHI3_DEVICE void cp_async_commit() { emulator::commit_copies(); }
template <int kPending>
PHI3_DEVICE void cp_async_wait() {
  emulator::wait_for_copies(kPending);
}

PHI3_DEVICE float exp2_approx(float x) {
  const float y = exp2f(x);
  return y < 0x1p-126F ? 0.0F : y;
}

PHI3_DEVICE std::uint32_t pack_bf16x2(float low, float high) {
  return from_float<BFloat16>(low).bits |
         static_cast<std::uint32_t>(from_float<BFloat16>(high).bits) << 16;
}

PHI3_DEVICE std::uint32_t widen_float8x2(std::uint16_t pair) {
  const auto widen = [](std::uint32_t byte) {
    const float magnitude = (byte & 0x7fU) == 0x7fU
                                ? 480.0F
                                : to_float(Float8{static_cast<std::uint8_t>(byte & 0x7fU)});
    return from_float<BFloat16>((byte & 0x80U) != 0 ? -magnitude : magnitude).bits;
  };
  return widen(pair & 0xffU) | static_cast<std::uint32_t>(widen(pair >> 8)) << 16;
}

}  // namespace phi3::cuda
