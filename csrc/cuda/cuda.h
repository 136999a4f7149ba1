// The CUDA backend as ops/ sees it; includes no CUDA header. A build without CUDA links no_cuda.cc
// instead.
#pragma once

#include "core/params.h"

namespace phi3::cuda {

bool is_built();

void pack(const PackParams& params);
void unpack(const UnpackParams& params);
void quantize(const QuantizeParams& params);
void embedding(const EmbeddingParams& params);
void rms_norm(const RmsNormParams& params);
void layer_norm(const LayerNormParams& params);
void linear(const LinearParams& params);
void qkv_rope(const QkvRopeParams& params);
void attention(const AttentionParams& params);
void mlp(const MlpParams& params);
void head(const HeadParams& params);
void logprobs(const LogprobsParams& params);
void sample(const SampleParams& params);

}  // namespace phi3::cuda
