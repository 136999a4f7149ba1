#include "emulator/threads.h"

#include <cstdint>

#include "block.h"

namespace phi3::emulator {

void meet_warp(const char* what, void* argument, Act act, Absent absent) {
  block().meet_warp(what, argument, act, absent);
}
void meet_warpgroup(const char* what, void* argument, Act act) {
  block().meet_warpgroup(what, argument, act);
}
void meet_block(const char* what) { block().meet_block(what); }
void meet_barrier(const char* what, int id, int count) { block().meet_barrier(what, id, count); }
void wait_until(const char* what, bool (*is_true)(const void*), const void* argument) {
  block().wait_until(what, is_true, argument);
}
void fail(const std::string& message) { block().fail(message); }
int thread_index() { return block().running(); }

unsigned char* shared_memory() { return block().shared_memory().data(); }

std::uint32_t shared_address(const void* pointer, std::size_t size, std::size_t alignment) {
  const SharedMemory& memory = block().shared_memory();
  if (!memory.contains(pointer, size)) {
    fail("points outside of its " + std::to_string(memory.size()) + " bytes of shared memory");
  }
  if (reinterpret_cast<std::uintptr_t>(pointer) % alignment != 0) {
    fail("has a pointer that is not aligned to " + std::to_string(alignment) + " bytes");
  }
  return kSharedStart +
         static_cast<std::uint32_t>(static_cast<const unsigned char*>(pointer) - memory.data());
}

unsigned char* shared_pointer(std::uint32_t address, std::size_t size) {
  unsigned char* pointer = shared_memory() + (address - kSharedStart);
  shared_address(pointer, size, 1);
  return pointer;
}

void copy_async(void* shared, const void* global, bool is_valid) {
  shared_address(shared, AsyncCopies::kBytes, AsyncCopies::kBytes);
  if (is_valid && reinterpret_cast<std::uintptr_t>(global) % AsyncCopies::kBytes != 0) {
    fail("copies from an address that is not aligned to 16 bytes");
  }
  block().copies_of_running().issue(shared, global, is_valid);
}
void commit_copies() { block().copies_of_running().commit(); }
void wait_for_copies(int num_pending_groups) {
  block().copies_of_running().wait(num_pending_groups);
}

}  // namespace phi3::emulator
