// A fact about the hardware that no document tells: includes no CUDA header.
#pragma once

namespace phi3::cuda::sm90 {

// Whether a sum of k16 steps has the same bits on mma.sync and on WGMMA, so that kernels of both
// may be mixed and a row of a batch still has the bits of the row alone. Tried out on the calling
// thread's current device, once; false where nothing is compiled for sm_90a, or the device is
// another. May be called while a stream is captured.
bool mma_agrees();

}  // namespace phi3::cuda::sm90
