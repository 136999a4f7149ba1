// How the warpgroups of a block share registers and shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/ptx.h"

namespace phi3::cuda::sm90 {

// Of the registers of all threads of the block, gives some up or takes some, for every thread of
// the calling warpgroup to have `kRegisters`.
template <int kRegisters>
PHI3_DEVICE void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}
template <int kRegisters>
PHI3_DEVICE void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}

// Lets wgmma see what this thread wrote to shared memory; a barrier after that for other threads.
PHI3_DEVICE void fence_for_wgmma() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// A barrier in shared memory whose phases end with `arrivals` arrivals each. Who waits does not
// count, so that warpgroups pass it at their own pace.
struct Mbarrier {
  std::uint64_t state;
};

// By one thread; a barrier of the block before the first use.
PHI3_DEVICE void mbarrier_init(Mbarrier& barrier, std::uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(&barrier)),
               "r"(arrivals)
               : "memory");
}

PHI3_DEVICE void mbarrier_arrive(Mbarrier& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(&barrier))
               : "memory");
}

// Waits for the end of the phase under way if its parity is `parity` (the first phase's is 0); else
// the phase of this parity is over.
PHI3_DEVICE void mbarrier_wait(Mbarrier& barrier, std::uint32_t parity) {
  std::uint32_t is_over = 0;
  while (is_over == 0) {
    asm volatile(
        "{\n.reg .pred over;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
        "selp.u32 %0, 1, 0, over;\n}\n"
        : "=r"(is_over)
        : "r"(shared_address(&barrier)), "r"(parity)
        : "memory");
  }
}

}  // namespace phi3::cuda::sm90
