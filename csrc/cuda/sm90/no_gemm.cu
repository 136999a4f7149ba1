// The interfaces of gemm.h and mma_probe.h where nothing is compiled for sm_90a.
#include "core/check.h"
#include "cuda/epilogue.cuh"
#include "cuda/mma_probe.h"
#include "cuda/sm90/gemm.h"

namespace phi3::cuda {

bool mma_agrees() { return false; }

namespace sm90 {

bool has_gemm() { return false; }
bool can_run(const GemmProblem&) { return false; }

template <typename Epilogue>
void gemm(const GemmProblem&, GemmTile, const typename Epilogue::Params&, Stream) {
  throw Error("cuda: this build has no GEMM for sm_90a");
}

template void gemm<StoreEpilogue>(const GemmProblem&,
                                  GemmTile,
                                  const StoreEpilogue::Params&,
                                  Stream);
template void gemm<GatedEpilogue>(const GemmProblem&,
                                  GemmTile,
                                  const GatedEpilogue::Params&,
                                  Stream);
template void gemm<QkvRopeEpilogue>(const GemmProblem&,
                                    GemmTile,
                                    const QkvRopeEpilogue::Params&,
                                    Stream);

}  // namespace sm90
}  // namespace phi3::cuda
