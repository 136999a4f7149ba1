// What cp.async of one thread has on its way.
#pragma once

#include <cstddef>
#include <vector>

namespace phi3::emulator {

class AsyncCopies {
 public:
  static constexpr std::size_t kBytes = 16;

  // The destination is poison until the copy lands, which it does as late as it may.
  void issue(void* shared, const void* global, bool is_valid);
  void commit();
  // Lands all groups but the `num_pending` committed last.
  void wait(int num_pending);
  void clear();

 private:
  struct Copy {
    void* shared;
    const void* global;  // null: zeros
  };
  std::vector<Copy> copies_;             // in the order of issue
  std::vector<std::size_t> group_ends_;  // into copies_
};

}  // namespace phi3::emulator
