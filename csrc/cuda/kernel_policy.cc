#include "cuda/kernel_policy.h"

#include <atomic>

#include "core/check.h"

namespace phi3::cuda {
namespace {

std::atomic<KernelPolicy> policy_of_process{KernelPolicy::kDeterministic};

}  // namespace

void set_kernel_policy(std::string_view name) {
  PHI3_CHECK(name == "deterministic" || name == "free",
             "kernel policy is '",
             name,
             "', expected deterministic or free");
  policy_of_process = name == "free" ? KernelPolicy::kFree : KernelPolicy::kDeterministic;
}

KernelPolicy kernel_policy() { return policy_of_process; }

}  // namespace phi3::cuda
