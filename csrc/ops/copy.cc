#include "ops/copy.h"

#include "core/check.h"
#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"

namespace phi3::ops {

void copy(const TensorView& source, const TensorView& out) {
  PHI3_CHECK(source.dtype == out.dtype,
             "copy: source is ",
             dtype_name(source.dtype),
             ", expected ",
             dtype_name(out.dtype));
  PHI3_CHECK(
      source.rank == out.rank, "copy: source has rank ", source.rank, ", expected ", out.rank);
  for (int dim = 0; dim < out.rank; ++dim) {
    PHI3_CHECK(source.size(dim) == out.size(dim),
               "copy: source dim ",
               dim,
               " is ",
               source.size(dim),
               ", expected ",
               out.size(dim));
  }
  PHI3_CHECK(source.is_contiguous_from(0), "copy: source is not contiguous");
  PHI3_CHECK(out.is_contiguous_from(0), "copy: out is not contiguous");
  run_on(out.device.type == DeviceType::kCuda ? out.device : source.device,
         CopyParams{.source = source.data,
                    .target = out.data,
                    .num_bytes = out.num_elements() * dtype_size(out.dtype)},
         cpu::copy,
         cuda::copy);
}

}  // namespace phi3::ops
