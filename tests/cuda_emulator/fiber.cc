#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <utility>

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace phi3::emulator {

namespace {

constexpr std::size_t kStackBytes = 128 * 1024;
constexpr std::size_t kGuardBytes = 4096;

// Keeps what it maps: every launch needs as many again.
class StackMemory {
 public:
  std::byte* take() {
    if (!free_.empty()) {
      std::byte* memory = free_.back();
      free_.pop_back();
      return memory;
    }
    void* memory = mmap(nullptr,
                        kGuardBytes + kStackBytes,
                        PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                        -1,
                        0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, kGuardBytes, PROT_NONE);
    return static_cast<std::byte*>(memory);
  }
  void give_back(std::byte* memory) { free_.push_back(memory); }

 private:
  std::vector<std::byte*> free_;
};

StackMemory& stack_memory() {
  static StackMemory memory;
  return memory;
}

}  // namespace

#ifdef __x86_64__

// swapcontext makes two system calls a switch; these are the registers that a call preserves.
extern "C" void phi3_emulator_switch(void** from, void* to);
asm(R"(
.text
.type phi3_emulator_switch, @function
phi3_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size phi3_emulator_switch, .-phi3_emulator_switch
.type phi3_emulator_enter, @function
phi3_emulator_enter:
  movq %r12, %rdi
  callq *%r13
  ud2
.size phi3_emulator_enter, .-phi3_emulator_enter
)");
extern "C" void phi3_emulator_enter();

class Stack {
 public:
  Stack(void (*entry)(void*), void* argument) : memory_(stack_memory().take()) {
    // As phi3_emulator_switch leaves a stack: r15, r14, r13, r12, rbx, rbp, return address. After
    // that the stack is aligned to 16 bytes, as it must be where `enter` calls.
    auto* slot = static_cast<void**>(top()) - 9;
    slot[2] = reinterpret_cast<void*>(entry);
    slot[3] = argument;
    slot[5] = nullptr;
    slot[6] = reinterpret_cast<void*>(&phi3_emulator_enter);
    fiber_ = slot;
  }
  ~Stack() { stack_memory().give_back(memory_); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  void resume() { phi3_emulator_switch(&scheduler_, fiber_); }
  void suspend() { phi3_emulator_switch(&fiber_, scheduler_); }
  std::byte* memory() const { return memory_; }
  void* top() const { return memory_ + kGuardBytes + kStackBytes; }

 private:
  std::byte* memory_;
  void* fiber_ = nullptr;
  void* scheduler_ = nullptr;
};

#else

class Stack {
 public:
  Stack(void (*entry)(void*), void* argument)
      : memory_(stack_memory().take()), entry_(entry), argument_(argument) {
    getcontext(&fiber_);
    fiber_.uc_stack.ss_sp = memory_ + kGuardBytes;
    fiber_.uc_stack.ss_size = kStackBytes;
    fiber_.uc_link = nullptr;
    const auto self = reinterpret_cast<std::uintptr_t>(this);
    makecontext(&fiber_,
                reinterpret_cast<void (*)()>(&Stack::enter),
                2,
                static_cast<unsigned>(self >> 32),
                static_cast<unsigned>(self));
  }
  ~Stack() { stack_memory().give_back(memory_); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  void resume() { swapcontext(&scheduler_, &fiber_); }
  void suspend() { swapcontext(&fiber_, &scheduler_); }
  std::byte* memory() const { return memory_; }
  void* top() const { return memory_ + kGuardBytes + kStackBytes; }

 private:
  static void enter(unsigned high, unsigned low) {
    auto* self = reinterpret_cast<Stack*>(static_cast<std::uintptr_t>(high) << 32 | low);
    self->entry_(self->argument_);
  }

  std::byte* memory_;
  void (*entry_)(void*);
  void* argument_;
  ucontext_t fiber_;
  ucontext_t scheduler_;
};

#endif

Fiber::Fiber() = default;
Fiber::~Fiber() = default;
Fiber::Fiber(Fiber&&) noexcept = default;
Fiber& Fiber::operator=(Fiber&&) noexcept = default;

void Fiber::start(void (*entry)(void*), void* argument) {
  stack_ = std::make_unique<Stack>(entry, argument);
}
void Fiber::resume() { stack_->resume(); }
void Fiber::suspend() { stack_->suspend(); }
void Fiber::release() { stack_.reset(); }

bool Fiber::is_overflow(const void* address) const {
  const auto* at = static_cast<const std::byte*>(address);
  return stack_ != nullptr && at >= stack_->memory() && at < stack_->memory() + kGuardBytes;
}
void* Fiber::top() const { return stack_->top(); }

}  // namespace phi3::emulator
