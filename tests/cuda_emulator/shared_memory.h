// The dynamic shared memory of the block that runs.
#pragma once

#include <cstddef>

namespace phi3::emulator {

// `size` bytes, aligned to 1024, that end where no memory is, or less than 1024 bytes before.
class SharedMemory {
 public:
  static constexpr std::size_t kMaxBytes = 227 * 1024;  // of a block on Hopper

  SharedMemory();
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  void resize(std::size_t size);
  // Makes all of it NaN in any floating-point format, and -1.
  void poison();
  // Whether a block wrote where memory is and none was asked for.
  bool is_spoilt() const;

  unsigned char* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool contains(const void* pointer, std::size_t size) const;

 private:
  unsigned char* memory_;
  unsigned char* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace phi3::emulator
