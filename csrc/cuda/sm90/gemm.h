// The GEMMs of sm_90a, on WGMMA: out[t][n] = Σ_k x[t][k] · W[n][k] for bfloat16 x, over an epilogue
// of epilogue.cuh. No other header than those of sm90/ knows CUTLASS. A build without sm_90a links
// no_gemm.cu instead.
#pragma once

#include <cstdint>

#include "core/params.h"
#include "core/tensor_view.h"
#include "cuda/sm90/gemm_tile.h"

namespace phi3::cuda::sm90 {

// weight: bfloat16 or fp8, of which the epilogue has the scales. x: bfloat16 [T, k].
struct WgmmaProblem {
  PackedWeight weight;
  const void* x;
  std::int64_t x_stride;  // in elements
  std::int64_t num_tokens;
};

// Whether this build has them and the copies of TMA can read the operands: where k and the row
// stride are multiples of 16 bytes and x begins at one. They run on devices of compute capability
// 9.0 alone.
bool can_run(const WgmmaProblem& problem);

// Neither allocates nor waits: a stream's capture may take it. The bits of a row do not depend on
// the tile. Defined for StoreEpilogue, GatedEpilogue and QkvRopeEpilogue.
template <typename Epilogue>
void gemm(const WgmmaProblem& problem,
          WgmmaTile tile,
          const typename Epilogue::Params& epilogue,
          Stream stream);

}  // namespace phi3::cuda::sm90
