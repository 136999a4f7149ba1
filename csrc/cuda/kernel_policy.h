// Whether a batch may be computed by a kernel that rounds another way than that of another batch;
// includes no CUDA header.
#pragma once

#include <cstdint>
#include <string_view>

namespace phi3::cuda {

// kDeterministic: a row has the same bits in every batch. kFree: the fastest kernel, even if its
// matrix instruction rounds another way than that of another batch's; to measure what the former
// costs.
enum class KernelPolicy : std::uint8_t { kDeterministic, kFree };

// Of the whole process, "deterministic" unless "free" is set; what a graph has captured stays as it
// is.
void set_kernel_policy(std::string_view name);
KernelPolicy kernel_policy();

}  // namespace phi3::cuda
