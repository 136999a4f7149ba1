// The interface of attention_prefill.h where nothing is compiled for sm_90a.
#include "core/check.h"
#include "cuda/sm90/attention_prefill.h"

namespace phi3::cuda::sm90 {

bool can_run_prefill(const AttentionParams&) { return false; }

void attention_prefill(const PrefillParams&, const AttentionPlan&, Stream) {
  throw Error("cuda: this build has no attention for sm_90a");
}

}  // namespace phi3::cuda::sm90
