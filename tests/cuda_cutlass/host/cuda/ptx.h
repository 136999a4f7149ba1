// What the staging of sums needs of cuda/ptx.h.
#pragma once

namespace phi3::cuda {

inline constexpr int kWarpSize = 32;

}  // namespace phi3::cuda
