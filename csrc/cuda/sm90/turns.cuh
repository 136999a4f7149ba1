// Two warpgroups take turns at beginning products: each has its softmax while the other's products
// are under way, where both would else wait for the tensor cores, and then leave them idle, at the
// same time.
#pragma once

#include <cstdint>

#include "cuda/attention_view.cuh"
#include "cuda/ptx.h"
#include "cuda/sm90/warpgroup.h"
#include "cuda/sm90/wgmma.h"

namespace phi3::cuda::sm90 {

// Turns are numbered from 0, in each of which it is first warpgroup 0's and then warpgroup 1's, and
// both have as many.
struct Turns {
  Mbarrier passed[2];  // by the warpgroup

  // By one thread, before all others begin.
  PHI3_DEVICE void init() {
    for (Mbarrier& barrier : passed) mbarrier_init(barrier, kWarpgroupSize / kWarpSize);
  }

  PHI3_DEVICE void wait(int warpgroup, int turn) {
    const int others = warpgroup == 0 ? turn - 1 : turn;
    if (others >= 0) mbarrier_wait(passed[1 - warpgroup], others & 1);
  }
  PHI3_DEVICE void pass(int warpgroup) {
    if (lane_index() == 0) mbarrier_arrive(passed[warpgroup]);
  }
};

}  // namespace phi3::cuda::sm90
