// The CPU backend: one function per op, called by ops/ with checked params. Index values (token
// ids, pages, positions) are checked here, before anything is written, because only the backend can
// read them.
#pragma once

#include "core/params.h"

namespace phi3::cpu {

void copy(const CopyParams& params);
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

}  // namespace phi3::cpu
