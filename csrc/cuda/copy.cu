#include "cuda/cuda.h"
#include "cuda/launch.h"

namespace phi3::cuda {

void copy(const CopyParams& params, Stream stream) {
  const auto num_bytes = static_cast<std::size_t>(params.num_bytes);
  check_cuda(cudaMemcpyAsync(
                 params.target, params.source, num_bytes, cudaMemcpyDefault, handle_of(stream)),
             "copy");
}

}  // namespace phi3::cuda
