// Rows of numbers by fours, a load or store each where memory is aligned so.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/dtype.h"
#include "cuda/ptx.h"

namespace phi3::cuda {

template <typename T>
struct alignas(4 * sizeof(T)) Four {
  T at[4];
};

// T may be const. Which elements make a four does not depend on the alignment, so that sums over
// fours do not either.
template <typename T>
class FourRow {
  using Value = std::remove_const_t<T>;

 public:
  PHI3_DEVICE FourRow(T* row, std::int64_t size)
      : row_(row),
        size_(static_cast<int>(size)),
        is_aligned_(reinterpret_cast<std::uintptr_t>(row) % sizeof(Four<Value>) == 0) {}

  // fn(four) for every four, by rising index those of one thread of the block.
  template <typename Fn>
  PHI3_DEVICE void for_each_four(Fn fn) const {
    const int num_fours = size_ / 4 + (size_ % 4 != 0 ? 1 : 0);
    for (int four = static_cast<int>(threadIdx.x); four < num_fours;
         four += static_cast<int>(blockDim.x)) {
      fn(four);
    }
  }

  // Whether the row has element i of a four.
  PHI3_DEVICE bool has(int four, int i) const { return 4 * four + i < size_; }

  // What is beyond the end is 0.
  PHI3_DEVICE Four<float> load(int four) const {
    Four<float> values{};
    if (is_whole(four)) {
      const auto stored = *reinterpret_cast<const Four<Value>*>(row_ + 4 * four);
      for (int i = 0; i < 4; ++i) values.at[i] = to_float(stored.at[i]);
    } else {
      for (int i = 0; i < 4; ++i) {
        if (has(four, i)) values.at[i] = to_float(row_[4 * four + i]);
      }
    }
    return values;
  }

  // What is beyond the end is dropped.
  PHI3_DEVICE void store(int four, const Four<float>& values) const {
    if (is_whole(four)) {
      Four<Value> stored;
      for (int i = 0; i < 4; ++i) stored.at[i] = from_float<Value>(values.at[i]);
      *reinterpret_cast<Four<Value>*>(row_ + 4 * four) = stored;
    } else {
      for (int i = 0; i < 4; ++i) {
        if (has(four, i)) row_[4 * four + i] = from_float<Value>(values.at[i]);
      }
    }
  }

 private:
  PHI3_DEVICE bool is_whole(int four) const { return is_aligned_ && 4 * four <= size_ - 4; }

  T* row_;
  int size_;
  bool is_aligned_;
};

}  // namespace phi3::cuda
