#include "shared_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>

namespace phi3::emulator {

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kAlignment = 1024;
constexpr std::size_t kMapped = (SharedMemory::kMaxBytes + kAlignment + kPage - 1) / kPage * kPage;
constexpr unsigned char kPoison = 0xff;

}  // namespace

SharedMemory::SharedMemory() {
  void* memory = mmap(
      nullptr, kMapped + 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<unsigned char*>(memory);
  mprotect(memory_, kPage, PROT_NONE);
  mprotect(memory_ + kPage + kMapped, kPage, PROT_NONE);
  std::memset(memory_ + kPage, kPoison, kMapped);
  resize(0);
}

SharedMemory::~SharedMemory() { munmap(memory_, kMapped + 2 * kPage); }

void SharedMemory::resize(std::size_t size) {
  size_ = size;
  data_ = memory_ + kPage + kMapped - (size + kAlignment - 1) / kAlignment * kAlignment;
}

void SharedMemory::poison() {
  unsigned char* start = std::max(memory_ + kPage, data_ - kAlignment);
  std::memset(start, kPoison, static_cast<std::size_t>(memory_ + kPage + kMapped - start));
}

bool SharedMemory::is_spoilt() const {
  const auto is_poison = [](unsigned char byte) { return byte == kPoison; };
  const unsigned char* start = std::max(memory_ + kPage, data_ - kAlignment);
  const unsigned char* data = data_;
  const unsigned char* end = memory_ + kPage + kMapped;
  return !std::all_of(start, data, is_poison) || !std::all_of(data + size_, end, is_poison);
}

bool SharedMemory::contains(const void* pointer, std::size_t size) const {
  const auto* first = static_cast<const unsigned char*>(pointer);
  return first >= data_ && first + size <= data_ + size_;
}

}  // namespace phi3::emulator
