// The interface of gemm.h where nothing is compiled for sm_90a.
#include "core/check.h"
#include "cuda/epilogue.cuh"
#include "cuda/sm90/gemm.h"

namespace phi3::cuda::sm90 {

bool can_run(const WgmmaProblem&) { return false; }

template <typename Epilogue>
void gemm(const WgmmaProblem&, WgmmaTile, const typename Epilogue::Params&, Stream) {
  throw Error("cuda: this build has no GEMM for sm_90a");
}

template void gemm<StoreEpilogue>(const WgmmaProblem&,
                                  WgmmaTile,
                                  const StoreEpilogue::Params&,
                                  Stream);
template void gemm<GatedEpilogue>(const WgmmaProblem&,
                                  WgmmaTile,
                                  const GatedEpilogue::Params&,
                                  Stream);
template void gemm<QkvRopeEpilogue>(const WgmmaProblem&,
                                    WgmmaTile,
                                    const QkvRopeEpilogue::Params&,
                                    Stream);

}  // namespace phi3::cuda::sm90
