// The CUDA backend of a build without CUDA: every op throws.
#include "core/check.h"
#include "cuda/cuda.h"

namespace phi3::cuda {
namespace {

[[noreturn]] void absent(const char* op) {
  throw Error(std::string(op) +
              ": a tensor is on a CUDA device, but phi3svc was built without CUDA");
}

}  // namespace

bool is_built() { return false; }

void pack(const PackParams&) { absent("pack_linear"); }
void unpack(const UnpackParams&) { absent("unpack_linear"); }
void quantize(const QuantizeParams&) { absent("quantize"); }
void embedding(const EmbeddingParams&) { absent("embedding"); }
void rms_norm(const RmsNormParams&) { absent("rms_norm"); }
void layer_norm(const LayerNormParams&) { absent("layer_norm"); }
void linear(const LinearParams&) { absent("linear"); }
void qkv_rope(const QkvRopeParams&) { absent("qkv_rope"); }
void attention(const AttentionParams&) { absent("attention"); }
void mlp(const MlpParams&) { absent("mlp"); }
void head(const HeadParams& params) { absent(params.op); }
void logprobs(const LogprobsParams&) { absent("logprobs"); }
void sample(const SampleParams&) { absent("sample"); }

}  // namespace phi3::cuda
