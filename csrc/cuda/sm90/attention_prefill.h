// Attention of many queries on WGMMA, with the bits of the kernel in attention_prefill.cuh where
// `mma_agrees`. A build without sm_90a links no_attention.cc instead.
#pragma once

#include "core/params.h"
#include "core/tensor_view.h"

namespace phi3::cuda {

class AttentionPlan;
struct PrefillParams;

namespace sm90 {

// Whether this build, the current device and the kernel's head dims allow it.
bool can_run_prefill(const AttentionParams& params);

void attention_prefill(const PrefillParams& params, const AttentionPlan& plan, Stream stream);

}  // namespace sm90
}  // namespace phi3::cuda
