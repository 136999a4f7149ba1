// The staging of sums as it is, run by threads of the host: every pair of rows of every token comes
// to the epilogue once, with its sums and what was read for it.
#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>
#include <cute/atom/mma_traits_sm90_gmma.hpp>
#include <cute/tensor.hpp>
#include <thread>
#include <vector>

#include "check.h"
#include "cuda/sm90/gemm_epilogue.cuh"

namespace phi3::cuda::sm90 {
namespace {

// Exact in float32.
float sum_at(std::int64_t token, std::int64_t row) {
  return static_cast<float>(token * 1024 + row);
}

struct Recorder {
  struct Params {
    std::int64_t num_rows, num_tokens;
    std::vector<std::atomic<int>>* stores;  // [tokens, rows]
    std::atomic<int>* mistakes;
  };
  struct Read {
    std::int64_t token, row;
  };

  static Read read(const Params&, std::int64_t token, std::int64_t row) { return {token, row}; }

  static void store(const Params& p,
                    std::int64_t token,
                    std::int64_t row,
                    float even,
                    float odd,
                    const Read& read) {
    if (token >= p.num_tokens || row + 1 >= p.num_rows || row % 2 != 0 || read.token != token ||
        read.row != row || even != sum_at(token, row) || odd != sum_at(token, row + 1)) {
      ++*p.mistakes;
      return;
    }
    ++(*p.stores)[static_cast<std::size_t>(token * p.num_rows + row)];
    ++(*p.stores)[static_cast<std::size_t>(token * p.num_rows + row + 1)];
  }
};

template <int kRows, int kTokens>
void check(int num_rows, int num_tokens) {
  using namespace cute;  // NOLINT: its operators on layouts are found no other way
  using Op = StagedEpilogueOp<Recorder, kRows, kTokens>;
  using TileShape = Shape<Int<kRows>, Int<kTokens>, _64>;
  constexpr auto kMajor = GMMA::Major::K;
  const auto tiled_mma = make_tiled_mma(
      GMMA::ss_op_selector<bfloat16_t, bfloat16_t, float, TileShape, kMajor, kMajor>(),
      Layout<Shape<Int<kRows / 64>, _1, _1>>{});

  std::vector<std::atomic<int>> stores(static_cast<std::size_t>(num_rows * num_tokens));
  std::atomic<int> mistakes = 0;
  const Recorder::Params params{num_rows, num_tokens, &stores, &mistakes};
  alignas(1024) static typename Op::SharedStorage shared;
  const auto run = [&](int thread) {
    const Op epilogue(params);
    for (int m = 0; m < ceil_div(num_rows, kRows); ++m) {
      for (int n = 0; n < ceil_div(num_tokens, kTokens); ++n) {
        auto sums = partition_fragment_C(tiled_mma, Shape<Int<kRows>, Int<kTokens>>{});
        const auto coords = Op::coords_of(tiled_mma, TileShape{}, thread);
        for (int i = 0; i < size(sums); ++i) {
          sums(i) = sum_at(n * kTokens + get<1>(coords(i)), m * kRows + get<0>(coords(i)));
        }
        epilogue(make_shape(num_rows, num_tokens, 64, 1),
                 TileShape{},
                 make_coord(m, n, _, 0),
                 sums,
                 tiled_mma,
                 0,
                 thread,
                 reinterpret_cast<char*>(&shared));
      }
    }
  };
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 2 * kRows; ++thread) threads.emplace_back(run, thread);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(mistakes.load(), 0);
  for (const std::atomic<int>& count : stores) EXPECT(count == 1);
}

TEST(tiles_that_are_full) {
  check<64, 16>(64, 16);
  check<64, 32>(128, 32);
  check<64, 64>(64, 128);
  check<128, 128>(256, 128);
}

TEST(tiles_with_rows_and_tokens_left_over) {
  check<64, 16>(80, 5);
  check<64, 32>(144, 33);
  check<64, 64>(208, 100);
  check<128, 128>(272, 131);
  check<128, 128>(16, 1);
}

}  // namespace
}  // namespace phi3::cuda::sm90
