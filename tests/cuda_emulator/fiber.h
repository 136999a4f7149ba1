// A stack of its own for each thread of a block, and the switch between two of them.
#pragma once

#include <cstddef>
#include <vector>

#ifdef __x86_64__
// swapcontext makes two system calls a switch; this keeps the registers that a call preserves.
extern "C" void phi3_emulator_switch(void** from, void* to);
#else
#include <ucontext.h>
#endif

namespace phi3::emulator {

// Where a stack that does not run goes on. Inline, since a processor foretells returns by calls:
// behind a switch each of them is a surprise.
#ifdef __x86_64__
using Context = void*;
inline void switch_context(Context& from, Context& to) { phi3_emulator_switch(&from, to); }
#else
using Context = ucontext_t;
inline void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }
#endif

class Fiber {
 public:
  Fiber() = default;
  ~Fiber() { release(); }
  Fiber(Fiber&& other) noexcept;
  Fiber& operator=(Fiber&&) = delete;

  // Prepares to run `entry(argument)`, which must not return, on a stack from a pool.
  void start(void (*entry)(void*), void* argument);
  // Gives the stack back. What is on it is forgotten.
  void release();

  bool is_started() const { return memory_ != nullptr; }
  Context& context() { return context_; }
  // Whether the address is in the guard page of the stack.
  bool is_overflow(const void* address) const;
  // Where to begin anew on it.
  void* top() const;

 private:
  std::byte* memory_ = nullptr;
  Context context_{};
};

}  // namespace phi3::emulator
