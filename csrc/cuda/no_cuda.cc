// The CUDA backend of a build without CUDA: every op throws.
#include "core/check.h"
#include "cuda/cuda.h"
#include "cuda/graph.h"

namespace phi3::cuda {
namespace {

[[noreturn]] void absent(const char* op) {
  throw Error(std::string(op) +
              ": a tensor is on a CUDA device, but phi3svc was built without CUDA");
}

}  // namespace

struct Graph::State {};

Graph::Graph(Device) { absent("program"); }
Graph::~Graph() = default;
Device Graph::device() const { return {}; }
void Graph::add(Call) {}
void Graph::launch() {}
void Graph::wait() const {}
double Graph::seconds() const { return 0; }

DeviceScope::DeviceScope(Device) {}
DeviceScope::~DeviceScope() = default;

const char* built_for() { return "off"; }
bool owns(Device device) { return device.type == DeviceType::kCuda; }
std::int64_t attention_workspace_bytes(std::int64_t, std::int64_t, std::int64_t, std::int64_t) {
  return 0;
}
std::int64_t sample_workspace_bytes(std::int64_t, std::int64_t) { return 0; }

void copy(const CopyParams&, Stream) { absent("copy"); }
void pack(const PackParams&, Stream) { absent("pack_linear"); }
void unpack(const UnpackParams&, Stream) { absent("unpack_linear"); }
void quantize(const QuantizeParams&, Stream) { absent("quantize"); }
void embedding(const EmbeddingParams&, Stream) { absent("embedding"); }
void rms_norm(const RmsNormParams&, Stream) { absent("rms_norm"); }
void layer_norm(const LayerNormParams&, Stream) { absent("layer_norm"); }
void linear(const LinearParams&, Stream) { absent("linear"); }
void qkv_rope(const QkvRopeParams&, Stream) { absent("qkv_rope"); }
void attention(const AttentionParams&, Stream) { absent("attention"); }
void mlp(const MlpParams&, Stream) { absent("mlp"); }
void head(const HeadParams& params, Stream) { absent(params.op); }
void logprobs(const LogprobsParams&, Stream) { absent("logprobs"); }
void sample(const SampleParams&, Stream) { absent("sample"); }

}  // namespace phi3::cuda
