// One kernel of the GEMMs of sm_90a: each is instantiated in a source file of its own, made of
// gemm_instance.cu.in, since each takes half a minute to compile.
#pragma once

#include "cuda/sm90/gemm.h"

namespace phi3::cuda::sm90 {

template <WeightFormat kFormat, WgmmaTile kTile, class Epilogue>
void run_gemm(const WgmmaProblem& problem,
              const typename Epilogue::Params& epilogue,
              Stream stream);

}  // namespace phi3::cuda::sm90
