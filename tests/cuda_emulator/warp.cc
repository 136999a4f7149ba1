#include "emulator/warp.h"

#include <bit>
#include <cstring>
#include <string>

#include "emulator/threads.h"

namespace phi3::emulator {

namespace {

constexpr unsigned kAllLanes = 0xffffffffU;

void check_mask(const char* what, unsigned mask) {
  if (mask != kAllLanes) fail(std::string("calls ") + what + " for some lanes of its warp");
}

struct Exchange {
  std::uint64_t bits;
  int source;
  std::uint64_t result;
};

void exchange_all(void* const* arguments, int count) {
  for (int lane = 0; lane < count; ++lane) {
    auto* own = static_cast<Exchange*>(arguments[lane]);
    if (own == nullptr) continue;
    const auto* other = static_cast<const Exchange*>(arguments[own->source]);
    own->result = other == nullptr ? ~std::uint64_t{0} : other->bits;
  }
}

struct Vote {
  bool predicate;
  unsigned result;
};

void vote_all(void* const* arguments, int count) {
  unsigned ballot = 0;
  for (int lane = 0; lane < count; ++lane) {
    const auto* vote = static_cast<const Vote*>(arguments[lane]);
    if (vote != nullptr && vote->predicate) ballot |= 1U << lane;
  }
  for (int lane = 0; lane < count; ++lane) {
    if (arguments[lane] != nullptr) static_cast<Vote*>(arguments[lane])->result = ballot;
  }
}

float low_half(std::uint32_t pair) { return std::bit_cast<float>(pair << 16); }
float high_half(std::uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000U); }

struct Mma {
  float* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};

// A product of two bfloat16 numbers is exact in float32, so adding it is a fused multiply-add.
void multiply(void* const* arguments, int count) {
  using Row [[gnu::vector_size(32)]] = float;
  Row b[16];
  for (int lane = 0; lane < count; ++lane) {
    const auto& own = *static_cast<const Mma*>(arguments[lane]);
    const int column = lane / 4;
    const int k = 2 * (lane % 4);
    b[k][column] = low_half(own.b[0]);
    b[k + 1][column] = high_half(own.b[0]);
    b[k + 8][column] = low_half(own.b[1]);
    b[k + 9][column] = high_half(own.b[1]);
  }
  for (int row = 0; row < 16; ++row) {
    const int first_lane = row % 8 * 4;
    const int half = row / 8;
    Row d;
    float a[16];
    for (int i = 0; i < 4; ++i) {
      const auto& own = *static_cast<const Mma*>(arguments[first_lane + i]);
      d[2 * i] = own.d[2 * half];
      d[2 * i + 1] = own.d[2 * half + 1];
      a[2 * i] = low_half(own.a[half]);
      a[2 * i + 1] = high_half(own.a[half]);
      a[2 * i + 8] = low_half(own.a[half + 2]);
      a[2 * i + 9] = high_half(own.a[half + 2]);
    }
    for (int k = 0; k < 16; ++k) d += a[k] * b[k];
    for (int i = 0; i < 4; ++i) {
      const auto& own = *static_cast<const Mma*>(arguments[first_lane + i]);
      own.d[2 * half] = d[2 * i];
      own.d[2 * half + 1] = d[2 * i + 1];
    }
  }
}

struct MatrixLoad {
  const unsigned char* row;  // null where the lane gives none
  std::uint32_t* result;
};

template <int kMatrices, bool kTransposed>
void load_all(void* const* arguments, int count) {
  for (int matrix = 0; matrix < kMatrices; ++matrix) {
    std::uint16_t elements[8][8];
    for (int row = 0; row < 8; ++row) {
      const auto* giver = static_cast<const MatrixLoad*>(arguments[8 * matrix + row]);
      std::memcpy(elements[row], giver->row, sizeof(elements[row]));
    }
    for (int lane = 0; lane < count; ++lane) {
      const int i = lane / 4;
      const int j = 2 * (lane % 4);
      const std::uint32_t low = kTransposed ? elements[j][i] : elements[i][j];
      const std::uint32_t high = kTransposed ? elements[j + 1][i] : elements[i][j + 1];
      static_cast<const MatrixLoad*>(arguments[lane])->result[matrix] = low | high << 16;
    }
  }
}

template <int kMatrices, bool kTransposed>
void load(const char* what, std::uint32_t (&r)[kMatrices], const void* shared_row) {
  if (lane_index() < 8 * kMatrices) shared_address(shared_row, 16, 16);
  MatrixLoad own{static_cast<const unsigned char*>(shared_row), r};
  meet_warp(what, &own, &load_all<kMatrices, kTransposed>);
}

}  // namespace

std::uint64_t exchange(const char* what, unsigned mask, std::uint64_t bits, int source) {
  check_mask(what, mask);
  Exchange own{bits, source, 0};
  meet_warp(what, &own, &exchange_all, Absent::kAllowed);
  return own.result;
}

void sync_warp(unsigned mask) {
  check_mask("__syncwarp", mask);
  meet_warp("__syncwarp", nullptr, nullptr, Absent::kAllowed);
}

unsigned vote(unsigned mask, bool predicate) {
  check_mask("a vote", mask);
  Vote own{predicate, 0};
  meet_warp("a vote", &own, &vote_all, Absent::kAllowed);
  return own.result;
}

void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  Mma own{d, a, b};
  meet_warp("mma_m16n8k16", &own, &multiply);
}

template <int kMatrices>
void load_matrices(const char* what, std::uint32_t (&r)[kMatrices], const void* shared_row) {
  load<kMatrices, false>(what, r, shared_row);
}
template <int kMatrices>
void load_matrices_transposed(const char* what,
                              std::uint32_t (&r)[kMatrices],
                              const void* shared_row) {
  load<kMatrices, true>(what, r, shared_row);
}
template void load_matrices<2>(const char*, std::uint32_t (&)[2], const void*);
template void load_matrices<4>(const char*, std::uint32_t (&)[4], const void*);
template void load_matrices_transposed<4>(const char*, std::uint32_t (&)[4], const void*);

}  // namespace phi3::emulator
