#include "async_copies.h"

#include <cstring>

namespace phi3::emulator {

void AsyncCopies::issue(void* shared, const void* global, bool is_valid) {
  std::memset(shared, 0xff, kBytes);
  copies_.push_back({shared, is_valid ? global : nullptr});
}

void AsyncCopies::commit() { group_ends_.push_back(copies_.size()); }

void AsyncCopies::wait(int num_pending) {
  const auto pending = static_cast<std::size_t>(num_pending);
  if (group_ends_.size() <= pending) return;
  const std::size_t num_groups = group_ends_.size() - pending;
  const std::size_t num_copies = group_ends_[num_groups - 1];
  for (std::size_t i = 0; i < num_copies; ++i) {
    if (copies_[i].global == nullptr) {
      std::memset(copies_[i].shared, 0, kBytes);
    } else {
      std::memcpy(copies_[i].shared, copies_[i].global, kBytes);
    }
  }
  copies_.erase(copies_.begin(), copies_.begin() + static_cast<std::ptrdiff_t>(num_copies));
  group_ends_.erase(group_ends_.begin(),
                    group_ends_.begin() + static_cast<std::ptrdiff_t>(num_groups));
  for (std::size_t& end : group_ends_) end -= num_copies;
}

void AsyncCopies::clear() {
  copies_.clear();
  group_ends_.clear();
}

}  // namespace phi3::emulator
