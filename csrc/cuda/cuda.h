// The CUDA backend as ops/ sees it; includes no CUDA header. A build without CUDA links no_cuda.cc
// instead.
#pragma once

#include "core/params.h"
#include "core/tensor_view.h"

namespace phi3::cuda {

// What there is code for, "sm_80 compute_80 sm_90a", where compute_80 is PTX; "off" without CUDA,
// "emulated" for tests.
const char* built_for();

// Whether ops on tensors of this device are this backend's.
bool owns(Device device);

// Makes a device the calling thread's current one, as its streams want it, while it lives.
class DeviceScope {
 public:
  explicit DeviceScope(Device device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int outer_ = 0;
};

// Bytes of workspace that an op can make use of: `attention` works with any from the least on, the
// faster the more it has; `sample` needs all.
std::int64_t attention_workspace_bytes(std::int64_t num_tokens,
                                       std::int64_t num_heads,
                                       std::int64_t head_dim,
                                       std::int64_t table_len);
std::int64_t sample_workspace_bytes(std::int64_t num_rows, std::int64_t vocab_size);

void copy(const CopyParams& params, Stream stream);
void pack(const PackParams& params, Stream stream);
void unpack(const UnpackParams& params, Stream stream);
void quantize(const QuantizeParams& params, Stream stream);
void embedding(const EmbeddingParams& params, Stream stream);
void rms_norm(const RmsNormParams& params, Stream stream);
void layer_norm(const LayerNormParams& params, Stream stream);
void linear(const LinearParams& params, Stream stream);
void qkv_rope(const QkvRopeParams& params, Stream stream);
void attention(const AttentionParams& params, Stream stream);
void mlp(const MlpParams& params, Stream stream);
void head(const HeadParams& params, Stream stream);
void logprobs(const LogprobsParams& params, Stream stream);
void sample(const SampleParams& params, Stream stream);

}  // namespace phi3::cuda
