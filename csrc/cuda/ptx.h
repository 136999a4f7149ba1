// The instructions that kernels use and C++ has no name for, with their PTX names, and conversions
// between element types. The only place with inline assembly, but for
// sm90/wgmma.h and sm90/warpgroup.h.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/dtype.h"

#define PHI3_HOST_DEVICE __host__ __device__ __forceinline__
#define PHI3_DEVICE __device__ __forceinline__

namespace phi3::cuda {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kAllLanes = 0xffffffffU;

// The block's dynamic shared memory, aligned to 1024 bytes as swizzled tiles want it.
PHI3_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(1024) unsigned char phi3_shared[];
  return phi3_shared;
}

PHI3_DEVICE std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

// d = a · b + d. a: 16x16 row-major, b: 16x8 column-major, both bfloat16; d: 16x8 float32. Thread
// `lane` holds rows g and g + 8 (g = lane / 4) and columns 2c, 2c + 1 (c = lane % 4) of d:
// d[0..1] of row g, d[2..3] of row g + 8. a[0]: row g, k 2c..; a[1]: row g + 8; a[2], a[3]: the
// same with k + 8. b[0]: column g, k 2c..; b[1]: k + 8. (PTX ISA, mma.m16n8k16.)
PHI3_DEVICE void mma_m16n8k16(float (&d)[4],
                              const std::uint32_t (&a)[4],
                              const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Loads 8x8 matrices of 16-bit elements: lane i gives the address of row i % 8 of matrix i / 8 (16
// bytes, aligned so); lane l gets of each matrix row l / 4, elements 2·(l % 4) and the next.
PHI3_DEVICE void ldmatrix_x4(std::uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}
PHI3_DEVICE void ldmatrix_x2(std::uint32_t (&r)[2], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared_row))
               : "memory");
}
// As above, each matrix transposed: lane l gets column l / 4, rows 2·(l % 4) and the next.
PHI3_DEVICE void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

// Copies 16 bytes (both sides aligned so) past the registers; writes zeros and reads nothing where
// not `is_valid`. There once waited for, and a barrier after that for other threads.
PHI3_DEVICE void cp_async16(void* shared, const void* global, bool is_valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)),
               "l"(global),
               "r"(is_valid ? 16 : 0)
               : "memory");
}
// As cp_async16, for what is read once: other things may stay in the L2 cache instead. The policy
// is what createpolicy makes of evict_first.
PHI3_DEVICE void cp_async16_once(void* shared, const void* global, bool is_valid = true) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;\n" ::"r"(
                   shared_address(shared)),
               "l"(global),
               "r"(is_valid ? 16 : 0),
               "l"(0x12f0000000000000ULL)
               : "memory");
}
PHI3_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Waits until at most `kPending` of the groups committed last are still on their way.
template <int kPending>
PHI3_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// 2^x, relative error below 2^-22; subnormal results are 0.
PHI3_DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Both rounded to nearest even, `low` in the low half: the order in memory.
PHI3_DEVICE std::uint32_t pack_bf16x2(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// Two fp8 numbers as bfloat16, which is exact; the low byte in the low half. NaN comes out as ±480:
// a weight with NaN has a NaN scale. The exponent moves to its place of a bfloat16 as it is, 120
// too small.
PHI3_DEVICE std::uint32_t widen_float8x2(std::uint16_t pair) {
  const std::uint32_t bytes = __byte_perm(pair, 0, 0x1404);  // b1 · 2^24 + b0 · 2^8
  const std::uint32_t tiny = (bytes & 0x80008000U) | ((bytes >> 4) & 0x07f007f0U);
  std::uint32_t widened;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;"
      : "=r"(widened)
      : "r"(tiny), "r"(0x7b807b80U), "r"(0x80008000U));  // · 2^120 + -0
  return widened;
}

}  // namespace phi3::cuda
