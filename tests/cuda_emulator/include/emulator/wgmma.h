// wgmma: what 128 threads begin together and get when they wait for it.
#pragma once

#include <cstdint>

namespace phi3::emulator {

// Of one thread. `a` and `d` must stay where they are until the wgmma has been waited for.
struct Wgmma {
  float* d;  // [num_groups][4]
  int num_groups;
  const std::uint32_t* a;  // [4], or null
  std::uint64_t shared_a;  // else a descriptor
  std::uint64_t b;         // descriptor
  bool is_transposed, accumulate;
};

// `d` is poison until the group is waited for. It is a fault to write `d`, `a` or shared memory
// that it reads before that, or to begin a group without a fence.
void issue_wgmma(const Wgmma& wgmma);
void fence_wgmmas();
void commit_wgmmas();
void wait_for_wgmmas(int num_pending_groups);

// Between blocks.
void forget_wgmmas();

}  // namespace phi3::emulator
