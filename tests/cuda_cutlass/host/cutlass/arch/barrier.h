// Named barriers among threads of the host, in place of CUTLASS's.
#pragma once

#include <barrier>
#include <cstdint>
#include <map>
#include <mutex>

namespace cutlass::arch {

struct NamedBarrier {
  static void sync(std::uint32_t num_threads, std::uint32_t id) {
    static std::mutex mutex;
    static std::map<std::uint32_t, std::barrier<>> barriers;
    std::unique_lock lock(mutex);
    std::barrier<>& barrier =
        barriers.try_emplace(id, static_cast<std::ptrdiff_t>(num_threads)).first->second;
    lock.unlock();
    barrier.arrive_and_wait();
  }
};

}  // namespace cutlass::arch
