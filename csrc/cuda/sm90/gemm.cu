// Which instance runs a GEMM of sm_90a.
#include "core/check.h"
#include "cuda/epilogue.cuh"
#include "cuda/sm90/gemm.h"
#include "cuda/sm90/gemm_instance.h"

namespace phi3::cuda::sm90 {
namespace {

constexpr std::int64_t kTmaBytes = 16;  // what addresses and strides are multiples of

template <WeightFormat kFormat, typename Epilogue>
void run_tile(const GemmProblem& problem,
              GemmTile tile,
              const typename Epilogue::Params& epilogue,
              Stream stream) {
  switch (tile) {
    case GemmTile::k64x16:
      return run_gemm<kFormat, GemmTile::k64x16, Epilogue>(problem, epilogue, stream);
    case GemmTile::k64x32:
      return run_gemm<kFormat, GemmTile::k64x32, Epilogue>(problem, epilogue, stream);
    case GemmTile::k64x64:
      return run_gemm<kFormat, GemmTile::k64x64, Epilogue>(problem, epilogue, stream);
    case GemmTile::k128x128:
      return run_gemm<kFormat, GemmTile::k128x128, Epilogue>(problem, epilogue, stream);
  }
}

}  // namespace

bool has_gemm() { return true; }

bool can_run(const GemmProblem& problem) {
  const std::int64_t k_bytes = problem.weight.format == WeightFormat::kFloat8
                                   ? problem.weight.in_features
                                   : 2 * problem.weight.in_features;
  return k_bytes % kTmaBytes == 0 && 2 * problem.x_stride % kTmaBytes == 0 &&
         reinterpret_cast<std::uintptr_t>(problem.x) % kTmaBytes == 0 &&
         reinterpret_cast<std::uintptr_t>(problem.weight.data) % kTmaBytes == 0;
}

template <typename Epilogue>
void gemm(const GemmProblem& problem,
          GemmTile tile,
          const typename Epilogue::Params& epilogue,
          Stream stream) {
  if (problem.num_tokens == 0 || problem.weight.num_panels == 0) return;
  if (problem.weight.format == WeightFormat::kFloat8) {
    run_tile<WeightFormat::kFloat8, Epilogue>(problem, tile, epilogue, stream);
  } else {
    run_tile<WeightFormat::kBFloat16, Epilogue>(problem, tile, epilogue, stream);
  }
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

}  // namespace phi3::cuda::sm90
