// The emulator's own promises: who waits for whom, what lands when, and what it refuses.
#include <algorithm>
#include <cstring>
#include <sstream>
#include <vector>

#include "check_fault.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"

namespace phi3::cuda {
namespace {

struct Out {
  int* out;
};

__global__ void number(Out p) {
  const unsigned idx = (blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x;
  atomicAdd(&p.out[idx], static_cast<int>(idx));
}

TEST(every_thread_of_every_block_runs_once) {
  std::vector<int> out(3 * 5 * 70);
  launch<number>({dim3(3, 5), 70}, kStream, Out{out.data()});
  for (int i = 0; i < static_cast<int>(out.size()); ++i) {
    EXPECT_EQ(out[static_cast<std::size_t>(i)], i);
  }
  launch<number>({dim3(0, 5), 70}, kStream, Out{nullptr});
}

__global__ void reverse(Out p) {
  int* shared = reinterpret_cast<int*>(shared_memory());
  for (int round = 0; round < 3; ++round) {
    shared[threadIdx.x] = p.out[threadIdx.x];
    __syncthreads();
    p.out[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
    __syncthreads();
  }
}

__global__ void reverse_without_barrier(Out p) {
  int* shared = reinterpret_cast<int*>(shared_memory());
  shared[threadIdx.x] = p.out[threadIdx.x];
  p.out[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

TEST(a_barrier_orders_shared_memory) {
  std::vector<int> out(1000);
  for (int i = 0; i < 1000; ++i) out[static_cast<std::size_t>(i)] = i;
  launch<reverse>({1, 1000, 4000}, kStream, Out{out.data()});
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(out[static_cast<std::size_t>(i)], 999 - i);
}

TEST(without_a_barrier_poison_is_read) {
  std::vector<int> out(256, 5);
  launch<reverse_without_barrier>({1, 256, 1024}, kStream, Out{out.data()});
  EXPECT(std::count(out.begin(), out.end(), -1) > 0);
}

__global__ void barrier_of_those_left(Out p) {
  if (threadIdx.x >= 40) return;
  int* shared = reinterpret_cast<int*>(shared_memory());
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  p.out[threadIdx.x] = shared[39 - threadIdx.x];
}

TEST(a_thread_that_exited_counts_as_arrived) {
  std::vector<int> out(40);
  launch<barrier_of_those_left>({1, 96, 160}, kStream, Out{out.data()});
  EXPECT_EQ(out[0], 39);
  EXPECT_EQ(out[39], 0);
}

__global__ void shuffles(Out p) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int value = static_cast<int>(threadIdx.x);
  int* out = p.out + 8 * threadIdx.x;
  out[0] = __shfl_sync(kAllLanes, value, 5);
  out[1] = __shfl_xor_sync(kAllLanes, value, 3);
  out[2] = __shfl_up_sync(kAllLanes, value, 2);
  out[3] = __shfl_down_sync(kAllLanes, value, 2);
  out[4] = __shfl_sync(kAllLanes, value, 9, 8);
  out[5] = static_cast<int>(__ballot_sync(kAllLanes, lane % 2));
  out[6] = __any_sync(kAllLanes, lane == 3);
  out[7] = __all_sync(kAllLanes, lane != 3);
}

TEST(shuffles_and_votes) {
  std::vector<int> out(64 * 8);
  launch<shuffles>({1, 64}, kStream, Out{out.data()});
  for (int thread = 0; thread < 64; ++thread) {
    const int lane = thread % 32;
    const int warp = thread - lane;
    const int* got = &out[static_cast<std::size_t>(8 * thread)];
    EXPECT_EQ(got[0], warp + 5);
    EXPECT_EQ(got[1], warp + (lane ^ 3));
    EXPECT_EQ(got[2], lane < 2 ? thread : thread - 2);
    EXPECT_EQ(got[3], lane > 29 ? thread : thread + 2);
    EXPECT_EQ(got[4], thread / 8 * 8 + 1);
    EXPECT_EQ(got[5], static_cast<int>(0xaaaaaaaaU));
    EXPECT_EQ(got[6], 1);
    EXPECT_EQ(got[7], 0);
  }
}

// a [16, 16] · b [8, 16]ᵀ, with a by ldmatrix_x4 and b by ldmatrix_x2, and a once more through its
// transposed copy.
struct MmaParams {
  const BFloat16* a;
  const BFloat16* b;
  float* d;  // [2, 16, 8]
};

__global__ void multiply(MmaParams p) {
  auto* a = reinterpret_cast<BFloat16*>(shared_memory());
  BFloat16* transposed = a + 256;
  BFloat16* b = transposed + 256;
  const unsigned lane = threadIdx.x;
  for (unsigned i = lane; i < 256; i += 32) {
    a[i] = p.a[i];
    transposed[i % 16 * 16 + i / 16] = p.a[i];
    if (i < 128) b[i] = p.b[i];
  }
  __syncwarp();
  std::uint32_t b_pairs[2];
  ldmatrix_x2(b_pairs, b + lane % 8 * 16 + lane / 8 % 2 * 8);
  std::uint32_t a_pairs[4];
  for (int turn = 0; turn < 2; ++turn) {
    if (turn == 0) {
      ldmatrix_x4(a_pairs, a + lane % 16 * 16 + lane / 16 * 8);
    } else {
      ldmatrix_x4_trans(a_pairs, transposed + (lane / 16 * 8 + lane % 8) * 16 + lane / 8 % 2 * 8);
    }
    float d[4] = {1, 1, 1, 1};
    mma_m16n8k16(d, a_pairs, b_pairs);
    const unsigned row = lane / 4;
    const unsigned column = lane % 4 * 2;
    float* out = p.d + turn * 128;
    out[row * 8 + column] = d[0];
    out[row * 8 + column + 1] = d[1];
    out[(row + 8) * 8 + column] = d[2];
    out[(row + 8) * 8 + column + 1] = d[3];
  }
}

TEST(matrices_are_loaded_and_multiplied_as_ptx_has_them) {
  std::vector<BFloat16> a(256);
  std::vector<BFloat16> b(128);
  for (int i = 0; i < 256; ++i)
    a[static_cast<std::size_t>(i)] = from_float<BFloat16>(i % 13 - 5.5F);
  for (int i = 0; i < 128; ++i) b[static_cast<std::size_t>(i)] = from_float<BFloat16>(i % 7 - 2.0F);
  std::vector<float> d(256);
  launch<multiply>(
      {1, 32, (256 + 256 + 128) * 2}, kStream, MmaParams{a.data(), b.data(), d.data()});
  for (std::size_t row = 0; row < 16; ++row) {
    for (std::size_t column = 0; column < 8; ++column) {
      float sum = 1;
      for (std::size_t k = 0; k < 16; ++k) {
        sum += to_float(a[row * 16 + k]) * to_float(b[column * 16 + k]);
      }
      EXPECT_EQ(d[row * 8 + column], sum);
      EXPECT_EQ(d[128 + row * 8 + column], sum);
    }
  }
}

// Each thread copies 16 bytes in each of three groups and reads them once after each wait.
struct CopyParams {
  const int* source;  // [3, 4] per thread
  int* out;           // [4, 3] per thread: after which wait, which group
};

__global__ void copy(CopyParams p) {
  int* shared = reinterpret_cast<int*>(shared_memory()) + threadIdx.x * 12;
  const int* source = p.source + threadIdx.x * 12;
  int* out = p.out + threadIdx.x * 12;
  for (int group = 0; group < 3; ++group) {
    shared[group * 4] = 7;
    cp_async16(shared + group * 4, source + group * 4, group != 1);
    cp_async_commit();
  }
  const auto look = [&](int time) {
    for (int group = 0; group < 3; ++group) out[time * 3 + group] = shared[group * 4];
  };
  look(0);
  cp_async_wait<2>();
  look(1);
  cp_async_wait<1>();
  look(2);
  cp_async_wait<0>();
  look(3);
}

TEST(copies_land_when_waited_for) {
  std::vector<int> source(2 * 12 + 4, 40);
  int* aligned = source.data();
  while (reinterpret_cast<std::uintptr_t>(aligned) % 16 != 0) ++aligned;
  std::vector<int> out(24);
  launch<copy>({1, 2, 96}, kStream, CopyParams{aligned, out.data()});
  const std::vector<int> expected = {-1, -1, -1, 40, -1, -1, 40, 0, -1, 40, 0, 40};
  for (std::size_t i = 0; i < 24; ++i) EXPECT_EQ(out[i], expected[i % 12]);
}

__global__ void divided(Out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else if (threadIdx.x == 32) {
    __shfl_sync(kAllLanes, 0, 0);
  }
  __syncthreads();
}

TEST(a_deadlock_says_who_waits_where) {
  EXPECT_FAULT(divided, (LaunchShape{1, 64}), Out{}, "divided: block (0, 0, 0)");
  EXPECT_FAULT(divided, (LaunchShape{1, 64}), Out{}, "deadlock");
  EXPECT_FAULT(divided, (LaunchShape{1, 64}), Out{}, "at __shfl_sync threads 32");
}

__global__ void at_odds(Out) {
  if (threadIdx.x == 3) {
    __syncwarp();
  } else {
    __ballot_sync(kAllLanes, 1);
  }
}

__global__ void incomplete(Out) {
  if (threadIdx.x == 3) return;
  float d[4];
  mma_m16n8k16(d, {0, 0, 0, 0}, {0, 0});
}

__global__ void for_some(Out) { __syncwarp(0xffff); }

TEST(lanes_at_odds_are_told) {
  EXPECT_FAULT(at_odds, (LaunchShape{1, 32}), Out{}, "a vote");
  EXPECT_FAULT(incomplete, (LaunchShape{1, 32}), Out{}, "mma_m16n8k16");
  EXPECT_FAULT(for_some, (LaunchShape{1, 32}), Out{}, "for some lanes");
}

struct Place {
  std::ptrdiff_t offset;
};

__global__ void write_at(Place p) {
  if (threadIdx.x == 1) *(shared_memory() + p.offset) = 1;
}
__global__ void load_at(Place p) {
  std::uint32_t r[4];
  ldmatrix_x4(r, shared_memory() + p.offset);
}
__global__ void copy_to(Place p) {
  int source[4];
  cp_async16(shared_memory() + p.offset, source, false);
}
__global__ void read_wide_at(Place p) {
  float4 value = *reinterpret_cast<const float4*>(shared_memory() + p.offset);
  *reinterpret_cast<float4*>(shared_memory()) = value;
}

TEST(shared_memory_ends_where_it_should) {
  EXPECT_EQ(fault_of<write_at>({1, 2, 512}, Place{511}), "");
  EXPECT_FAULT(write_at, (LaunchShape{1, 2, 512}), Place{512}, "wrote outside of its 512 bytes");
  EXPECT_FAULT(write_at, (LaunchShape{1, 2, 512}), Place{-1}, "wrote outside of its 512 bytes");
  EXPECT_FAULT(write_at, (LaunchShape{1, 2, 2048}), Place{2048}, "where no memory is");
  EXPECT_FAULT(write_at, (LaunchShape{1, 2, 0}), Place{0}, "thread 1 accesses");
  EXPECT_FAULT(load_at, (LaunchShape{1, 32, 512}), Place{504}, "points outside");
  EXPECT_FAULT(load_at, (LaunchShape{1, 32, 512}), Place{8}, "not aligned to 16");
  EXPECT_FAULT(copy_to, (LaunchShape{1, 32, 512}), Place{512}, "points outside");
  EXPECT_FAULT(read_wide_at, (LaunchShape{1, 32, 512}), Place{8}, "not aligned");
  EXPECT_EQ(fault_of<read_wide_at>({1, 32, 512}, Place{16}), "");
}

__global__ void recurse(Place p) {
  volatile char frame[4096];
  frame[0] = static_cast<char>(p.offset);
  if (p.offset > 0) recurse(Place{p.offset - 1});
  frame[1] = frame[0];
}

TEST(a_stack_that_overflows_is_told) {
  EXPECT_EQ(fault_of<recurse>({1, 1}, Place{10}), "");
  EXPECT_FAULT(recurse, (LaunchShape{1, 1}), Place{100}, "overflows its stack");
}

TEST(shapes_that_no_device_takes_are_refused) {
  EXPECT_FAULT(number, (LaunchShape{1, 1025}), Out{}, "1025 threads");
  EXPECT_FAULT(number, (LaunchShape{1, 32, 300000}), Out{}, "300000 bytes");
  EXPECT_FAULT(number, (LaunchShape{dim3(1, 70000), 32}), Out{}, "grid too large");
}

}  // namespace
}  // namespace phi3::cuda
