// Which blocks of keys a query head sees in block-sparse attention.
#pragma once

#include <cstdint>
#include <numeric>

#include "core/params.h"

namespace phi3::cpu {

class BlockPattern {
 public:
  BlockPattern() = default;
  BlockPattern(const BlockSparse& sparse, std::int64_t head)
      : num_local_blocks_(sparse.num_local_blocks),
        stride_(sparse.vertical_stride),
        first_(stride_ - 1 - head * sparse.head_step % stride_) {}

  // Heads from this one on have the patterns of earlier ones.
  static std::int64_t period(const BlockSparse& sparse) {
    return sparse.vertical_stride / std::gcd(sparse.vertical_stride, sparse.head_step);
  }

  // For a key block up to the query's.
  bool sees(std::int64_t query_block, std::int64_t key_block) const {
    return query_block - key_block < num_local_blocks_ || key_block % stride_ == first_;
  }

  // Blocks first_vertical(), + stride, + stride, … are seen from everywhere behind them.
  std::int64_t first_vertical() const { return first_; }

 private:
  std::int64_t num_local_blocks_;
  std::int64_t stride_;
  std::int64_t first_;
};

}  // namespace phi3::cpu
