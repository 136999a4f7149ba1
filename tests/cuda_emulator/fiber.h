// A stack of its own for each thread of a block, and the switch between two of them.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace phi3::emulator {

class Stack;

// Runs `entry(argument)` on a stack of its own, which must not return but give up for good.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(Fiber&&) noexcept;
  Fiber& operator=(Fiber&&) noexcept;

  // Where the first `resume` begins. The stack comes from a pool.
  void start(void (*entry)(void*), void* argument);
  // Until it suspends; called by the scheduler.
  void resume();
  // Back to who resumed it; called on the fiber.
  void suspend();
  // Gives the stack back. What is on it is forgotten.
  void release();

  bool is_started() const { return stack_ != nullptr; }
  // Whether the address is in the guard page of the stack, or where to begin anew on it.
  bool is_overflow(const void* address) const;
  void* top() const;

 private:
  std::unique_ptr<Stack> stack_;
};

}  // namespace phi3::emulator
