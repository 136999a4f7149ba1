#include "emulator/wgmma.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstring>
#include <deque>
#include <span>
#include <vector>

#include "emulator/threads.h"
#include "emulator/wgmma_address.h"

namespace phi3::emulator {
namespace {

constexpr int kDepth = 16;
constexpr int kMaxGroups = 32;
constexpr std::uint32_t kPoison = 0xffffffffU;

float bf16(std::uint32_t bits) { return std::bit_cast<float>(bits << 16); }

using WarpgroupWgmma = std::array<Wgmma, kWarpgroupSize>;
using FactorRegisters = std::array<std::array<std::uint32_t, 4>, kWarpgroupSize>;

// One wgmma of a warpgroup under way.
struct Operation {
  WarpgroupWgmma threads;
  FactorRegisters a;
  std::vector<std::uint16_t> b;            // [16][columns]
  std::vector<std::array<float, 4>> sums;  // [128][groups]
  bool is_committed = false;

  std::span<std::array<float, 4>> sums_of(int thread) {
    const auto groups = static_cast<std::size_t>(threads[0].num_groups);
    return std::span(sums).subspan(static_cast<std::size_t>(thread) * groups, groups);
  }
};

struct Warpgroup {
  std::deque<Operation> operations;  // in the order of their issue
  std::deque<int> groups;            // operations of each that is committed
  bool is_fenced = false;
};

std::array<Warpgroup, 1024 / kWarpgroupSize> warpgroups;

Warpgroup& own_warpgroup() {
  return warpgroups[static_cast<std::size_t>(thread_index() / kWarpgroupSize)];
}

// Swizzling keeps eight elements that lie side by side together.
std::vector<std::uint16_t> read_factor(std::uint64_t descriptor, bool is_transposed, int columns) {
  std::vector<std::uint16_t> factor(static_cast<std::size_t>(kDepth * columns));
  const auto read_piece = [&](int depth, int column, int step) {
    std::uint16_t piece[8];
    const std::uint32_t address = wgmma_address(descriptor,
                                                is_transposed,
                                                static_cast<std::uint32_t>(depth),
                                                static_cast<std::uint32_t>(column));
    std::memcpy(piece, shared_pointer(address, sizeof(piece)), sizeof(piece));
    for (int i = 0; i < 8; ++i) {
      factor[static_cast<std::size_t>(depth * columns + column + i * step)] = piece[i];
    }
  };
  if (is_transposed) {
    for (int depth = 0; depth < kDepth; ++depth) {
      for (int column = 0; column < columns; column += 8) read_piece(depth, column, 1);
    }
  } else {
    for (int column = 0; column < columns; ++column) {
      for (int depth = 0; depth < kDepth; depth += 8) read_piece(depth, column, columns);
    }
  }
  return factor;
}

std::vector<std::uint16_t> read_b(const Wgmma& wgmma) {
  return read_factor(wgmma.b, wgmma.is_transposed, 8 * wgmma.num_groups);
}

// As the threads hold it, or would.
FactorRegisters read_a(const WarpgroupWgmma& threads) {
  FactorRegisters a;
  if (threads[0].a != nullptr) {
    for (std::size_t thread = 0; thread < kWarpgroupSize; ++thread) {
      std::memcpy(a[thread].data(), threads[thread].a, sizeof(a[thread]));
    }
    return a;
  }
  constexpr std::size_t kRows = 64;
  const std::vector<std::uint16_t> rows = read_factor(threads[0].shared_a, false, kRows);
  for (std::size_t thread = 0; thread < kWarpgroupSize; ++thread) {
    for (std::size_t i = 0; i < 4; ++i) {
      const std::size_t row = thread / 32 * 16 + thread % 32 / 4 + i % 2 * 8;
      const std::size_t depth = thread % 4 * 2 + i / 2 * 8;
      a[thread][i] = rows[depth * kRows + row] |
                     static_cast<std::uint32_t>(rows[(depth + 1) * kRows + row]) << 16;
    }
  }
  return a;
}

// What `d` will hold once all that is under way is done.
void read_d(Warpgroup& warpgroup, Operation& next) {
  Operation* before = nullptr;
  for (Operation& operation : warpgroup.operations) {
    if (operation.threads[0].d == next.threads[0].d) before = &operation;
  }
  for (int thread = 0; thread < kWarpgroupSize; ++thread) {
    const Wgmma& wgmma = next.threads[static_cast<std::size_t>(thread)];
    const auto sums = next.sums_of(thread);
    if (!wgmma.accumulate) {
      std::ranges::fill(sums, std::array<float, 4>{});
    } else if (before != nullptr) {
      std::ranges::copy(before->sums_of(thread), sums.begin());
    } else {
      std::memcpy(sums.data(), wgmma.d, sums.size_bytes());
    }
  }
}

// The order of additions is mma_m16n8k16's.
void multiply(Operation& operation) {
  const auto columns = static_cast<std::size_t>(8 * operation.threads[0].num_groups);
  std::vector<float> b(operation.b.size());
  std::ranges::transform(operation.b, b.begin(), [](std::uint16_t bits) { return bf16(bits); });
  std::vector<float> row(columns);
  for (int first_lane = 0; first_lane < kWarpgroupSize; first_lane += 4) {
    for (std::size_t half = 0; half < 2; ++half) {
      // The four lanes hold, of eight columns or eight of depth, two each.
      float a[kDepth];
      const auto for_lanes = [&](auto&& use) {
        for (std::size_t i = 0; i < 4; ++i) use(static_cast<std::size_t>(first_lane) + i, 2 * i);
      };
      for_lanes([&](std::size_t thread, std::size_t at) {
        for (std::size_t k = 0; k < 2; ++k) {
          const std::uint32_t pair = operation.a[thread][half + 2 * k];
          a[8 * k + at] = bf16(pair & 0xffffU);
          a[8 * k + at + 1] = bf16(pair >> 16);
        }
        const auto sums = operation.sums_of(static_cast<int>(thread));
        for (std::size_t group = 0; group < sums.size(); ++group) {
          std::memcpy(&row[8 * group + at], &sums[group][2 * half], 2 * sizeof(float));
        }
      });
      for (std::size_t k = 0; k < kDepth; ++k) {
        for (std::size_t column = 0; column < columns; ++column) {
          row[column] += a[k] * b[k * columns + column];
        }
      }
      for_lanes([&](std::size_t thread, std::size_t at) {
        const auto sums = operation.sums_of(static_cast<int>(thread));
        for (std::size_t group = 0; group < sums.size(); ++group) {
          std::memcpy(&sums[group][2 * half], &row[8 * group + at], 2 * sizeof(float));
        }
      });
    }
  }
}

void issue(void* const* arguments, int /*count*/) {
  Warpgroup& warpgroup = own_warpgroup();
  if (!warpgroup.is_fenced) fail("begins wgmmas without a fence");
  Operation next;
  for (std::size_t thread = 0; thread < kWarpgroupSize; ++thread) {
    const Wgmma& own = next.threads[thread] = *static_cast<const Wgmma*>(arguments[thread]);
    const Wgmma& first = next.threads[0];
    if (own.b != first.b || own.shared_a != first.shared_a || own.num_groups != first.num_groups ||
        own.is_transposed != first.is_transposed || own.accumulate != first.accumulate) {
      fail("is not of one mind with its warpgroup about a wgmma");
    }
  }
  next.a = read_a(next.threads);
  next.b = read_b(next.threads[0]);
  next.sums.resize(static_cast<std::size_t>(kWarpgroupSize * next.threads[0].num_groups));
  read_d(warpgroup, next);
  multiply(next);
  for (const Wgmma& own : next.threads) {
    std::memset(own.d, 0xff, static_cast<std::size_t>(own.num_groups) * 4 * sizeof(float));
  }
  warpgroup.operations.push_back(std::move(next));
}

// Hands out the sums, unless another wgmma goes on from them.
void finish(const Warpgroup& warpgroup, Operation& done) {
  if (read_b(done.threads[0]) != done.b) fail("wrote shared memory that a wgmma was reading");
  if (read_a(done.threads) != done.a) fail("wrote a factor of a wgmma under way");
  const bool is_last = std::ranges::none_of(warpgroup.operations, [&](const Operation& operation) {
    return operation.threads[0].d == done.threads[0].d;
  });
  for (int thread = 0; thread < kWarpgroupSize; ++thread) {
    const Wgmma& own = done.threads[static_cast<std::size_t>(thread)];
    for (int i = 0; i < 4 * own.num_groups; ++i) {
      if (std::bit_cast<std::uint32_t>(own.d[i]) != kPoison) {
        fail("wrote a sum of a wgmma under way");
      }
    }
    const auto sums = done.sums_of(thread);
    if (is_last) std::memcpy(own.d, sums.data(), sums.size_bytes());
  }
}

void fence(void* const* /*arguments*/, int /*count*/) { own_warpgroup().is_fenced = true; }

void commit(void* const* /*arguments*/, int /*count*/) {
  Warpgroup& warpgroup = own_warpgroup();
  int operations = 0;
  for (Operation& operation : warpgroup.operations) {
    operations += operation.is_committed ? 0 : 1;
    operation.is_committed = true;
  }
  warpgroup.groups.push_back(operations);
  warpgroup.is_fenced = false;
}

void wait(void* const* arguments, int /*count*/) {
  Warpgroup& warpgroup = own_warpgroup();
  const auto num_pending = static_cast<std::size_t>(*static_cast<const int*>(arguments[0]));
  warpgroup.is_fenced = false;
  while (warpgroup.groups.size() > num_pending) {
    for (int i = 0; i < warpgroup.groups.front(); ++i) {
      Operation done = std::move(warpgroup.operations.front());
      warpgroup.operations.pop_front();
      finish(warpgroup, done);
    }
    warpgroup.groups.pop_front();
  }
}

}  // namespace

void issue_wgmma(const Wgmma& wgmma) {
  const bool has_plain_a = wgmma.a != nullptr || is_plain_descriptor(wgmma.shared_a);
  if (!has_plain_a || !is_plain_descriptor(wgmma.b))
    fail("gives wgmma a descriptor that is not emulated");
  if (wgmma.num_groups > kMaxGroups) fail("begins a wgmma of more than 256 columns");
  Wgmma own = wgmma;
  meet_warpgroup("wgmma", &own, &issue);
}
void fence_wgmmas() { meet_warpgroup("wgmma_fence", nullptr, &fence); }
void commit_wgmmas() { meet_warpgroup("wgmma_commit", nullptr, &commit); }
void wait_for_wgmmas(int num_pending_groups) {
  meet_warpgroup("wgmma_wait", &num_pending_groups, &wait);
}

void forget_wgmmas() {
  for (Warpgroup& warpgroup : warpgroups) {
    warpgroup.operations.clear();
    warpgroup.groups.clear();
    warpgroup.is_fenced = false;
  }
}

}  // namespace phi3::emulator
