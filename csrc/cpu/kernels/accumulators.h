// The float32 accumulators of a register tile.
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/vec.h"

namespace phi3::cpu::PHI3_ISA {
namespace {

template <int kRows, int kPanels>
struct Accumulators {
  F v[kRows][kPanels];

  void start(const GemmTile& tile, const float* out) {
    for (int r = 0; r < kRows; ++r) {
      for (int p = 0; p < kPanels; ++p) {
        v[r][p] = tile.accumulate ? load(out + r * tile.out_stride + p * kLanes) : zero();
      }
    }
  }
  void finish(const GemmTile& tile, float* out) const {
    for (int r = 0; r < kRows; ++r) {
      for (int p = 0; p < kPanels; ++p) store(out + r * tile.out_stride + p * kLanes, v[r][p]);
    }
  }
};

}  // namespace
}  // namespace phi3::cpu::PHI3_ISA
