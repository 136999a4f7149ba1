// wgmma: the products of a warpgroup, four warps together, that read a factor or both from shared
// memory and come about while the warps go on. With warpgroup.h the only inline assembly beside
// ptx.h.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/ptx.h"

namespace phi3::cuda::sm90 {

inline constexpr int kWarpgroupSize = 128;

namespace detail {

// Keeps every use of the registers on its side of this point.
template <int kGroups>
PHI3_DEVICE void pin(float (&d)[kGroups][4]) {
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(d[group][i])::"memory");
  }
}

template <int kSteps>
PHI3_DEVICE void pin(std::uint32_t (&a)[kSteps][4]) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(a[step][i])::"memory");
  }
}

}  // namespace detail

// Orders what the warps wrote to registers before the wgmmas that follow; needed wherever other
// instructions wrote the registers given, sums or factors.
template <typename... Registers>
PHI3_DEVICE void wgmma_fence(Registers&... registers) {
  (detail::pin(registers), ...);
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}

// Closes the group of the wgmmas so far.
PHI3_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }

// Waits until at most `kPending` groups committed last are not done. Before that the sums and the
// factors in registers of a group must not be touched, nor its shared memory written.
template <int kPending, int... kGroups>
PHI3_DEVICE void wgmma_wait(float (&... d)[kGroups][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
  (detail::pin(d), ...);
}

// d = a · b + d, or a · b where not `accumulate`, for the warpgroup's 64 rows, 8 · kGroups columns
// and a depth of 16: warp w has rows 16·w to 16·w + 15, and of them `a` and each d[group], the
// columns from 8·group, lie as in mma_m16n8k16. `b`: a descriptor of shared memory, see
// swizzled_tile.h; kTransposed where its columns, not its depth, lie side by side.
template <bool kTransposed, int kGroups>
PHI3_DEVICE void wgmma_k16(float (&d)[kGroups][4],
                           const std::uint32_t (&a)[4],
                           std::uint64_t b,
                           bool accumulate) {
  static_assert(kGroups == 8 || kGroups == 12 || kGroups == 16);
#define PHI3_GROUP(g) "+f"(d[g][0]), "+f"(d[g][1]), "+f"(d[g][2]), "+f"(d[g][3])
#define PHI3_GROUPS(g) PHI3_GROUP(g), PHI3_GROUP(g + 1), PHI3_GROUP(g + 2), PHI3_GROUP(g + 3)
#define PHI3_FACTORS                                                                     \
  "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)), \
      "n"(static_cast<int>(kTransposed))
  if constexpr (kGroups == 8) {
    asm volatile(
        "{\n.reg .pred accumulate;\n"
        "setp.ne.b32 accumulate, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, "
        " %8, %9, %10, %11, %12, %13, %14, %15, "
        " %16, %17, %18, %19, %20, %21, %22, %23, "
        " %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, accumulate, 1, 1, %38;\n}\n"
        : PHI3_GROUPS(0), PHI3_GROUPS(4)
        : PHI3_FACTORS);
  } else if constexpr (kGroups == 12) {
    asm volatile(
        "{\n.reg .pred accumulate;\n"
        "setp.ne.b32 accumulate, %53, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, "
        " %8, %9, %10, %11, %12, %13, %14, %15, "
        " %16, %17, %18, %19, %20, %21, %22, %23, "
        " %24, %25, %26, %27, %28, %29, %30, %31, "
        " %32, %33, %34, %35, %36, %37, %38, %39, "
        " %40, %41, %42, %43, %44, %45, %46, %47}, "
        "{%48, %49, %50, %51}, %52, accumulate, 1, 1, %54;\n}\n"
        : PHI3_GROUPS(0), PHI3_GROUPS(4), PHI3_GROUPS(8)
        : PHI3_FACTORS);
  } else if constexpr (kGroups == 16) {
    asm volatile(
        "{\n.reg .pred accumulate;\n"
        "setp.ne.b32 accumulate, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, "
        " %8, %9, %10, %11, %12, %13, %14, %15, "
        " %16, %17, %18, %19, %20, %21, %22, %23, "
        " %24, %25, %26, %27, %28, %29, %30, %31, "
        " %32, %33, %34, %35, %36, %37, %38, %39, "
        " %40, %41, %42, %43, %44, %45, %46, %47, "
        " %48, %49, %50, %51, %52, %53, %54, %55, "
        " %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, accumulate, 1, 1, %70;\n}\n"
        : PHI3_GROUPS(0), PHI3_GROUPS(4), PHI3_GROUPS(8), PHI3_GROUPS(12)
        : PHI3_FACTORS);
  }
#undef PHI3_FACTORS
}

// As above for 64 columns, with `a` in shared memory too: a descriptor of a factor whose "columns"
// are the rows of the product. Neither is transposed.
PHI3_DEVICE void wgmma_k16(float (&d)[8][4], std::uint64_t a, std::uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred accumulate;\n"
      "setp.ne.b32 accumulate, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, "
      " %8, %9, %10, %11, %12, %13, %14, %15, "
      " %16, %17, %18, %19, %20, %21, %22, %23, "
      " %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, accumulate, 1, 1, 0, 0;\n}\n"
      : PHI3_GROUPS(0), PHI3_GROUPS(4)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}
#undef PHI3_GROUPS
#undef PHI3_GROUP

}  // namespace phi3::cuda::sm90
