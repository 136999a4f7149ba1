// The parts of the DLPack ABI (versions 0.x and 1.x) that reading a tensor needs. Layouts follow
// the specification, https://dmlc.github.io/dlpack/latest/c_api.html.
#pragma once

#include <cstdint>

namespace phi3::bindings::dlpack {

struct Device {
  std::int32_t type;  // 1 CPU, 2 CUDA, 3 CPU but page-locked
  std::int32_t id;
};
inline constexpr std::int32_t kCpu = 1;
inline constexpr std::int32_t kCuda = 2;
inline constexpr std::int32_t kCudaHost = 3;

struct DataType {
  std::uint8_t code;  // 0 int, 1 unsigned int, 2 float, 4 bfloat, 10 float8_e4m3fn
  std::uint8_t bits;
  std::uint16_t lanes;
};

inline constexpr std::uint8_t kFloat8E4m3fn = 10;

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; before 1.2 null when dense
  std::uint64_t byte_offset;
};

struct ManagedTensor {  // capsule "dltensor"
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor*);
};

struct Version {
  std::uint32_t major;
  std::uint32_t minor;
};

struct VersionedTensor {  // capsule "dltensor_versioned"
  Version version;
  void* context;
  void (*deleter)(VersionedTensor*);
  std::uint64_t flags;
  Tensor tensor;
};
inline constexpr std::uint64_t kReadOnly = 1;

// The table behind a tensor type's `__dlpack_c_exchange_api__` capsule, 1.2 and later.
struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  void* allocate;
  void* managed_from_object;
  void* managed_to_object;
  int (*borrow_from_object)(void* object, Tensor* out);  // may be null; -1 with a Python error set
  // The stream on which the framework works with a device; -1 with a Python error set.
  int (*current_work_stream)(std::int32_t device_type, std::int32_t device_id, void** stream);
};

}  // namespace phi3::bindings::dlpack
