// Which instance runs a GEMM of sm_90a.
#include "core/check.h"
#include "cuda/epilogue.cuh"
#include "cuda/sm90/gemm.h"
#include "cuda/sm90/gemm_instance.h"

namespace phi3::cuda::sm90 {
namespace {

constexpr std::int64_t kTmaBytes = 16;  // what addresses and strides are multiples of

template <WeightFormat kFormat, typename Epilogue>
void run_tile(const WgmmaProblem& problem,
              WgmmaTile tile,
              const typename Epilogue::Params& epilogue,
              Stream stream) {
  switch (tile) {
    case WgmmaTile::k64x16:
      return run_gemm<kFormat, WgmmaTile::k64x16, Epilogue>(problem, epilogue, stream);
    case WgmmaTile::k64x32:
      return run_gemm<kFormat, WgmmaTile::k64x32, Epilogue>(problem, epilogue, stream);
    case WgmmaTile::k64x64:
      return run_gemm<kFormat, WgmmaTile::k64x64, Epilogue>(problem, epilogue, stream);
    case WgmmaTile::k128x128:
      return run_gemm<kFormat, WgmmaTile::k128x128, Epilogue>(problem, epilogue, stream);
  }
}

}  // namespace

bool can_run(const WgmmaProblem& problem) {
  const std::int64_t k_bytes = problem.weight.format == WeightFormat::kFloat8
                                   ? problem.weight.in_features
                                   : 2 * problem.weight.in_features;
  return k_bytes % kTmaBytes == 0 && 2 * problem.x_stride % kTmaBytes == 0 &&
         reinterpret_cast<std::uintptr_t>(problem.x) % kTmaBytes == 0 &&
         reinterpret_cast<std::uintptr_t>(problem.weight.data) % kTmaBytes == 0;
}

template <typename Epilogue>
void gemm(const WgmmaProblem& problem,
          WgmmaTile tile,
          const typename Epilogue::Params& epilogue,
          Stream stream) {
  if (problem.num_tokens == 0 || problem.weight.num_panels == 0) return;
  if (problem.weight.format == WeightFormat::kFloat8) {
    run_tile<WeightFormat::kFloat8, Epilogue>(problem, tile, epilogue, stream);
  } else {
    run_tile<WeightFormat::kBFloat16, Epilogue>(problem, tile, epilogue, stream);
  }
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
