// A non-owning view of a strided tensor; passed by value, memory belongs to the caller.
#pragma once

#include <array>
#include <cstdint>

#include "core/dtype.h"

namespace phi3 {

enum class DeviceType : std::uint8_t { kCpu, kCuda };

// A CUDA stream: what is queued on one runs in this order. Null for the default one, and on a CPU.
struct Stream {
  void* handle = nullptr;

  friend bool operator==(const Stream&, const Stream&) = default;
};

// stream: on which the owner of a tensor works with it.
struct Device {
  DeviceType type = DeviceType::kCpu;
  std::int32_t index = 0;
  Stream stream{};

  friend bool operator==(const Device&, const Device&) = default;
};

constexpr const char* device_name(DeviceType type) {
  return type == DeviceType::kCpu ? "cpu" : "cuda";
}

struct TensorView {
  static constexpr int kMaxRank = 5;

  void* data = nullptr;
  std::array<std::int64_t, kMaxRank> sizes{};
  std::array<std::int64_t, kMaxRank> strides{};  // in elements
  int rank = 0;
  DType dtype = DType::kFloat32;
  Device device{};

  std::int64_t size(int dim) const { return sizes[static_cast<std::size_t>(dim)]; }
  std::int64_t stride(int dim) const { return strides[static_cast<std::size_t>(dim)]; }

  std::int64_t num_elements() const {
    std::int64_t count = 1;
    for (int dim = 0; dim < rank; ++dim) count *= size(dim);
    return count;
  }

  // True when dims [first_dim, rank) lie densely in row-major order. Sizes 0 and 1 match any
  // stride.
  bool is_contiguous_from(int first_dim) const {
    std::int64_t expected = 1;
    for (int dim = rank - 1; dim >= first_dim; --dim) {
      if (size(dim) != 1 && stride(dim) != expected && num_elements() != 0) return false;
      expected *= size(dim);
    }
    return true;
  }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace phi3
