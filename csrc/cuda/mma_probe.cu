// Multiplies the same numbers with mma.sync and with WGMMA, its first factor in shared memory and
// in registers, and compares bits after every few steps. One shape of WGMMA stands for all: how
// many columns it has, and how they lie, is not known to change a sum. Compiled for sm_90a.
#include <cute/tensor.hpp>
#include <map>
#include <mutex>

#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/mma_probe.h"
#include "cuda/ptx.h"

namespace phi3::cuda {
namespace {

// A block has the tile of one warp group, and goes through k in chunks that lie in shared memory.
constexpr int kRows = 64;
constexpr int kColumns = 16;
constexpr int kChunk = 64;
constexpr int kNumChunks = 64;
constexpr int kSumChunks = 8;  // until sums begin anew
constexpr int kThreads = 128;
constexpr unsigned kNumBlocks = 64;

constexpr auto kMajor = cute::GMMA::Major::K;
using SharedMma = cute::SM90::GMMA::MMA_64x16x16_F32BF16BF16_SS<kMajor, kMajor>;
using RegisterMma = cute::SM90::GMMA::MMA_64x16x16_F32BF16BF16_RS<kMajor, kMajor>;
using Atom = cute::GMMA::Layout_K_SW128_Atom<cute::bfloat16_t>;
template <int kSize>
using Tile =
    decltype(cute::tile_to_shape(Atom{}, cute::Shape<cute::Int<kSize>, cute::Int<kChunk>>{}));

struct Shared {
  alignas(1024) cute::bfloat16_t a[kRows * kChunk];
  alignas(1024) cute::bfloat16_t b[kColumns * kChunk];
};

// What kind of numbers a block has decides which roundings its sums meet.
enum class Kind : unsigned { kAlike, kWide, kCancelling, kTiny };
constexpr unsigned kNumKinds = 4;

PHI3_DEVICE std::uint32_t hash(std::uint32_t x) {  // murmur3's finalizer
  x = (x ^ (x >> 16)) * 0x85ebca6bU;
  x = (x ^ (x >> 13)) * 0xc2b2ae35U;
  return x ^ (x >> 16);
}

// Element `at` of a factor that `seed` names: sign and mantissa at random, exponents as the kind.
PHI3_DEVICE std::uint16_t element(Kind kind, std::uint32_t seed, std::uint32_t at) {
  const std::uint32_t bits = hash(seed ^ hash(at));
  const std::uint32_t draw = bits >> 16;
  std::uint32_t exponent = 126 + draw % 3;
  switch (kind) {
    case Kind::kAlike:
      break;
    case Kind::kWide:
      exponent = 107 + draw % 40;
      break;
    case Kind::kCancelling: {  // runs of large ones of both signs, small ones between
      exponent = draw % 4 == 0 ? 115 + draw % 7 : 132;
      const std::uint32_t mantissa = draw % 4 == 0 ? bits & 0x7fU : 0x40U | (bits & 1U);
      return static_cast<std::uint16_t>((bits & 0x8000U) | exponent << 7 | mantissa);
    }
    case Kind::kTiny:  // zeros, and products that are subnormal or none
      if (draw % 4 == 0) return static_cast<std::uint16_t>(bits & 0x8000U);
      exponent = draw % 5 == 0 ? 0 : 50 + draw % 30;
      break;
  }
  return static_cast<std::uint16_t>((bits & 0x8000U) | exponent << 7 | (bits & 0x7fU));
}

template <class Layout>
PHI3_DEVICE void fill(cute::bfloat16_t* tile, const Layout& layout, Kind kind, std::uint32_t seed) {
  for (int at = static_cast<int>(threadIdx.x); at < cute::size(layout); at += kThreads) {
    tile[layout(at)] =
        cute::bfloat16_t::bitcast(element(kind, seed, static_cast<std::uint32_t>(at)));
  }
}

struct ProbeParams {
  unsigned* num_different;
};

__global__ void __launch_bounds__(kThreads) mma_probe_kernel(ProbeParams params) {
  using namespace cute;  // NOLINT: its operators on layouts are found no other way
  auto& shared = *reinterpret_cast<Shared*>(shared_memory());
  const Tensor shared_a = make_tensor(make_smem_ptr(shared.a), Tile<kRows>{});
  const Tensor shared_b = make_tensor(make_smem_ptr(shared.b), Tile<kColumns>{});
  auto from_shared = make_tiled_mma(SharedMma{});
  auto from_registers = make_tiled_mma(RegisterMma{});
  const auto shared_slice = from_shared.get_slice(threadIdx.x);
  const auto register_slice = from_registers.get_slice(threadIdx.x);
  const Tensor a_there = shared_slice.make_fragment_A(shared_slice.partition_A(shared_a));
  const Tensor b_there = shared_slice.make_fragment_B(shared_slice.partition_B(shared_b));
  Tensor a_here = register_slice.partition_fragment_A(shared_a);  // (8, 1, k16 steps)
  // All three have the sums of a thread in the order of mma_m16n8k16, 8 columns after 8.
  constexpr int kSums = kColumns / 2;
  Tensor sums_there = partition_fragment_C(from_shared, Shape<Int<kRows>, Int<kColumns>>{});
  Tensor sums_here = make_fragment_like(sums_there);
  float sums_sync[kSums / 4][4];

  const auto kind = static_cast<Kind>(blockIdx.x % kNumKinds);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  unsigned num_different = 0;
  for (int chunk = 0; chunk < kNumChunks; ++chunk) {
    const std::uint32_t seed = hash(blockIdx.x * kNumChunks + static_cast<unsigned>(chunk));
    fill(shared.a, Tile<kRows>{}, kind, seed);
    fill(shared.b, Tile<kColumns>{}, kind, ~seed);
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");  // WGMMA reads another way
    __syncthreads();
    copy(register_slice.partition_A(shared_a), a_here);
    if (chunk % kSumChunks == 0) {
      from_shared.accumulate_ = GMMA::ScaleOut::Zero;
      from_registers.accumulate_ = GMMA::ScaleOut::Zero;
      CUTE_UNROLL
      for (int i = 0; i < kSums; ++i) sums_sync[i / 4][i % 4] = 0;
    }

    warpgroup_fence_operand(sums_there);
    warpgroup_fence_operand(sums_here);
    warpgroup_arrive();
    CUTE_UNROLL
    for (int step = 0; step < size<2>(a_here); ++step) {
      gemm(from_shared, a_there(_, _, step), b_there(_, _, step), sums_there);
      gemm(from_registers, a_here(_, _, step), b_there(_, _, step), sums_here);
      from_shared.accumulate_ = GMMA::ScaleOut::One;
      from_registers.accumulate_ = GMMA::ScaleOut::One;
    }
    warpgroup_commit_batch();
    warpgroup_wait<0>();
    warpgroup_fence_operand(sums_there);
    warpgroup_fence_operand(sums_here);

    CUTE_UNROLL
    for (int step = 0; step < size<2>(a_here); ++step) {
      const Tensor a_words = recast<std::uint32_t>(a_here(_, 0, step));
      const std::uint32_t a[4] = {a_words(0), a_words(1), a_words(2), a_words(3)};
      CUTE_UNROLL
      for (int group = 0; group < kSums / 4; ++group) {
        std::uint32_t b[2];
        CUTE_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int k = 16 * step + 8 * half + 2 * (lane % 4);
          b[half] = *reinterpret_cast<const std::uint32_t*>(
              &shared.b[Tile<kColumns>{}(8 * group + lane / 4, k)]);
        }
        mma_m16n8k16(sums_sync[group], a, b);
      }
    }
    CUTE_UNROLL
    for (int i = 0; i < kSums; ++i) {
      const unsigned sync = __float_as_uint(sums_sync[i / 4][i % 4]);
      num_different += __float_as_uint(sums_there(i)) != sync;
      num_different += __float_as_uint(sums_here(i)) != sync;
    }
    __syncthreads();  // before the next chunk is written
  }
  if (num_different != 0) atomicAdd(params.num_different, num_different);
}

// Lets this thread wait and allocate although a stream of it is captured: the probe has its own.
class RelaxedCapture {
 public:
  RelaxedCapture() { check_cuda(cudaThreadExchangeStreamCaptureMode(&outer_), "capture mode"); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&outer_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode outer_ = cudaStreamCaptureModeRelaxed;  // until it is exchanged
};

class ProbeStream {
 public:
  ProbeStream() {
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  }
  ~ProbeStream() { cudaStreamDestroy(stream_); }
  ProbeStream(const ProbeStream&) = delete;
  ProbeStream& operator=(const ProbeStream&) = delete;

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

__device__ unsigned num_different_sums;  // of a device; counted once

bool probe() {
  const RelaxedCapture relaxed;
  const ProbeStream stream;
  void* counter = nullptr;
  check_cuda(cudaGetSymbolAddress(&counter, num_different_sums), "probe");
  const LaunchShape shape{
      .grid = dim3(kNumBlocks), .threads = kThreads, .shared_bytes = sizeof(Shared)};
  launch<mma_probe_kernel>(
      shape, Stream{stream.get()}, ProbeParams{static_cast<unsigned*>(counter)});
  unsigned num_different = 0;
  check_cuda(cudaMemcpyAsync(
                 &num_different, counter, sizeof(unsigned), cudaMemcpyDeviceToHost, stream.get()),
             "probe");
  check_cuda(cudaStreamSynchronize(stream.get()), "probe");
  return num_different == 0;
}

}  // namespace

bool mma_agrees() {
  static std::mutex mutex;
  static std::map<int, bool> known;  // by device
  const DeviceProperties& device = current_device();
  if (device.compute_capability != 90) return false;
  const std::scoped_lock lock(mutex);
  const auto found = known.find(device.index);
  if (found != known.end()) return found->second;
  return known[device.index] = probe();
}

}  // namespace phi3::cuda
