// What device code in the emulator calls to wait for other threads of its block, or to give up.
//
// A block's threads are fibers of one OS thread: between two of these calls a thread runs alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace phi3::emulator {

inline constexpr int kWarpSize = 32;
inline constexpr int kWarpgroupSize = 128;

// Of a group's `count` members, each with its argument (null: the thread has exited).
using Act = void (*)(void* const* arguments, int count);

enum class Absent : bool { kForbidden, kAllowed };  // may members have exited?

// Each is called by all threads of the group with the same `what`. The last to come runs `act` on
// all arguments; then all go on.
void meet_warp(const char* what, void* argument, Act act, Absent absent = Absent::kForbidden);
void meet_warpgroup(const char* what, void* argument, Act act);
void meet_block(const char* what);
// The `count` threads that come to barrier `id` next, of 16.
void meet_barrier(const char* what, int id, int count);

// Until `is_true(argument)`, which is asked again and again.
void wait_until(const char* what, bool (*is_true)(const void*), const void* argument);

// Ends the launch with a Fault that names kernel, block and thread.
[[noreturn]] void fail(const std::string& message);

int thread_index();  // in its block
inline int lane_index() { return thread_index() % kWarpSize; }

// The block's dynamic shared memory. Addresses as the hardware has them begin at kSharedStart.
inline constexpr std::uint32_t kSharedStart = 1024;
unsigned char* shared_memory();
// Fails where [pointer, pointer + size) is not inside, or is not aligned.
std::uint32_t shared_address(const void* pointer, std::size_t size, std::size_t alignment);
unsigned char* shared_pointer(std::uint32_t address, std::size_t size);

// cp.async of the calling thread: poison until it is waited for, and then what `global` holds.
void copy_async(void* shared, const void* global, bool is_valid);
void commit_copies();
void wait_for_copies(int num_pending_groups);

}  // namespace phi3::emulator
