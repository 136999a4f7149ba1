// What the emulator makes of wgmma and of barriers between warpgroups.
#include <bit>
#include <cstdint>
#include <vector>

#include "check.h"
#include "check_fault.h"
#include "cuda/ptx.h"
#include "cuda/sm90/mma_probe.cuh"
#include "cuda/sm90/swizzled_tile.h"
#include "cuda/sm90/warpgroup.h"
#include "cuda/sm90/wgmma.h"

namespace phi3::cuda::sm90 {
namespace {

constexpr int kRows = 64;

// Small integers, so that every sum is exact.
float factor(int row, int depth) { return static_cast<float>((row * 5 + depth * 3) % 11 - 5); }
float number(int row, int column) { return static_cast<float>((row * 7 + column * 13) % 9 - 4); }

struct Out {
  float* out;
};

template <int kColumns>
void fill_tile(unsigned char* tile) {
  using Tile = SwizzledTile<kRows, kColumns>;
  const int thread = static_cast<int>(threadIdx.x);
  const int num_threads = static_cast<int>(blockDim.x);
  for (int i = thread; i < kRows * kColumns; i += num_threads) {
    const int row = i / kColumns;
    const int column = i % kColumns;
    auto* place = tile + Tile::offset(row, column / 8) + column % 8 * 2;
    *reinterpret_cast<BFloat16*>(place) = from_float<BFloat16>(number(row, column));
  }
  __syncthreads();
}

// Rows of the warpgroup's factor, 16 deep from `depth`.
void load_factor(int depth, std::uint32_t (&a)[4]) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroupSize;
  const int row = thread / kWarpSize * 16 + thread % kWarpSize / 4;
  const int first = depth + thread % 4 * 2;
  for (int part = 0; part < 4; ++part) {
    const int at_row = row + part % 2 * 8;
    const int at = first + part / 2 * 8;
    a[part] = pack_bf16x2(factor(at_row, at), factor(at_row, at + 1));
  }
}

template <int kGroups>
void store(const float (&d)[kGroups][4], float* out) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroupSize;
  const int row = thread / kWarpSize * 16 + thread % kWarpSize / 4;
  for (int group = 0; group < kGroups; ++group) {
    for (int i = 0; i < 4; ++i) {
      const int column = group * 8 + thread % 4 * 2 + i % 2;
      out[(row + i / 2 * 8) * kGroups * 8 + column] = d[group][i];
    }
  }
}

template <int kColumns>
__global__ void multiply_over_columns(Out p) {
  fill_tile<kColumns>(shared_memory());
  float d[kRows / 8][4];
  std::uint32_t a[kColumns / 16][4];
  for (int step = 0; step < kColumns / 16; ++step) load_factor(step * 16, a[step]);
  wgmma_fence(d);
  for (int step = 0; step < kColumns / 16; ++step) {
    const auto b =
        SwizzledTile<kRows, kColumns>::over_columns(shared_address(shared_memory()), step * 16);
    wgmma_k16<false>(d, a[step], b, step > 0);
  }
  wgmma_commit();
  wgmma_wait<0>(d);
  store(d, p.out + threadIdx.x / kWarpgroupSize * kRows * kRows);
}

template <int kColumns>
__global__ void multiply_over_rows(Out p) {
  fill_tile<kColumns>(shared_memory());
  float d[kColumns / 8][4] = {};
  std::uint32_t a[kRows / 16][4];
  for (int step = 0; step < kRows / 16; ++step) {
    load_factor(step * 16, a[step]);
    wgmma_fence(d);
    const auto b =
        SwizzledTile<kRows, kColumns>::over_rows(shared_address(shared_memory()), step * 16);
    wgmma_k16<true>(d, a[step], b, true);
    wgmma_commit();
  }
  wgmma_wait<0>(d);
  store(d, p.out + threadIdx.x / kWarpgroupSize * kRows * kColumns);
}

// For two warpgroups.
template <int kColumns>
void check_products() {
  constexpr LaunchShape kShape{1, 2 * kWarpgroupSize, SwizzledTile<kRows, kColumns>::kBytes};
  std::vector<float> scores(2 * kRows * kRows);
  launch<multiply_over_columns<kColumns>>(kShape, kStream, Out{scores.data()});
  std::vector<float> outs(2 * kRows * kColumns);
  launch<multiply_over_rows<kColumns>>(kShape, kStream, Out{outs.data()});
  int differences = 0;
  for (int i = 0; i < 2 * kRows * kRows; ++i) {
    float sum = 0.0F;
    for (int k = 0; k < kColumns; ++k) {
      sum += factor(i / kRows % kRows, k) * number(i % kRows, k);
    }
    differences += scores[static_cast<std::size_t>(i)] != sum;
  }
  for (int i = 0; i < 2 * kRows * kColumns; ++i) {
    float sum = 0.0F;
    for (int k = 0; k < kRows; ++k) {
      sum += factor(i / kColumns % kRows, k) * number(k, i % kColumns);
    }
    differences += outs[static_cast<std::size_t>(i)] != sum;
  }
  EXPECT_EQ(differences, 0);
}

TEST(a_factor_in_shared_memory_is_read_either_way) {
  check_products<64>();
  check_products<96>();
  check_products<128>();
}

TEST(the_probe_finds_no_difference_where_both_round_alike) {
  unsigned num_different = 0;
  launch_mma_probes(kNumProbeKinds, kStream, ProbeParams{&num_different});
  EXPECT_EQ(num_different, 0U);
}

// One wgmma, during which something is done that must not be.
enum class Offence : std::uint8_t {
  kNone,
  kReadSum,
  kNoFence,
  kWriteSum,
  kWriteFactor,
  kWriteTile,
  kDisagree,
};

struct OffenceParams {
  Offence offence;
  float* out;
};

__global__ void offend(OffenceParams p) {
  fill_tile<64>(shared_memory());
  float d[kRows / 8][4];
  std::uint32_t a[4];
  load_factor(0, a);
  if (p.offence != Offence::kNoFence) wgmma_fence(d);
  const int column = p.offence == Offence::kDisagree && threadIdx.x == 77 ? 16 : 0;
  const std::uint32_t tile = shared_address(shared_memory());
  wgmma_k16<false>(d, a, SwizzledTile<kRows, 64>::over_columns(tile, column), false);
  wgmma_commit();
  if (p.offence == Offence::kReadSum) *p.out = d[3][2];
  if (p.offence == Offence::kWriteSum) d[3][2] = 0.0F;
  if (p.offence == Offence::kWriteFactor) a[1] += 1;
  if (p.offence == Offence::kWriteTile && threadIdx.x == 3) shared_memory()[5] ^= 1;
  wgmma_wait<0>(d);
  if (p.offence == Offence::kNone) *p.out = d[0][0];
}

TEST(what_is_under_way_is_left_alone) {
  float out = 0.0F;
  const auto fault = [&](Offence offence) {
    return fault_of<offend>({1, kWarpgroupSize, SwizzledTile<kRows, 64>::kBytes},
                            OffenceParams{offence, &out});
  };
  const auto says = [](const std::string& message, const char* part) {
    return message.find(part) != std::string::npos;
  };
  EXPECT(says(fault(Offence::kNoFence), "without a fence"));
  EXPECT(says(fault(Offence::kWriteSum), "wrote a sum"));
  EXPECT(says(fault(Offence::kWriteFactor), "wrote a factor"));
  EXPECT(says(fault(Offence::kWriteTile), "wrote shared memory"));
  EXPECT(says(fault(Offence::kDisagree), "not of one mind"));
  EXPECT_EQ(fault(Offence::kReadSum), "");
  EXPECT(out != out);
  EXPECT_EQ(fault(Offence::kNone), "");
  EXPECT(out == out);
}

// Numbers go from warpgroup 1 to warpgroup 0 through one place.
__global__ void pass_on(Out p) {
  struct Shared {
    Mbarrier full, empty;
    float place[kWarpgroupSize];
  };
  auto& shared = *reinterpret_cast<Shared*>(shared_memory());
  if (threadIdx.x == 0) {
    mbarrier_init(shared.full, kWarpgroupSize);
    mbarrier_init(shared.empty, kWarpgroupSize);
  }
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroupSize;
  for (int round = 0; round < 5; ++round) {
    const auto parity = static_cast<std::uint32_t>(round % 2);
    if (threadIdx.x >= kWarpgroupSize) {
      if (round > 0) mbarrier_wait(shared.empty, 1 - parity);
      shared.place[thread] = static_cast<float>(round * 1000 + thread);
      mbarrier_arrive(shared.full);
    } else {
      mbarrier_wait(shared.full, parity);
      p.out[round * kWarpgroupSize + thread] = shared.place[kWarpgroupSize - 1 - thread];
      mbarrier_arrive(shared.empty);
    }
  }
}

__global__ void wait_for_nobody(Out) {
  auto& barrier = *reinterpret_cast<Mbarrier*>(shared_memory());
  if (threadIdx.x == 0) mbarrier_init(barrier, 2);
  __syncthreads();
  if (threadIdx.x == 0) mbarrier_arrive(barrier);
  mbarrier_wait(barrier, 0);
}

__global__ void wait_before_init(Out) {
  mbarrier_wait(*reinterpret_cast<Mbarrier*>(shared_memory()), 0);
}

TEST(mbarriers_have_phases) {
  std::vector<float> out(5 * kWarpgroupSize);
  launch<pass_on>({1, 2 * kWarpgroupSize, 1024}, kStream, Out{out.data()});
  for (int i = 0; i < 5 * kWarpgroupSize; ++i) {
    const int expected = i / kWarpgroupSize * 1000 + kWarpgroupSize - 1 - i % kWarpgroupSize;
    EXPECT_EQ(out[static_cast<std::size_t>(i)], static_cast<float>(expected));
  }
  const LaunchShape shape{1, 64, 8};
  EXPECT_FAULT(wait_for_nobody, shape, Out{nullptr}, "deadlock");
  EXPECT_FAULT(wait_before_init, shape, Out{nullptr}, "before its init");
}

}  // namespace
}  // namespace phi3::cuda::sm90
