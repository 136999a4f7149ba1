#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <utility>

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
  static auto* memory = new StackMemory;  // outlives every fiber
  return *memory;
}

}  // namespace

Fiber::Fiber(Fiber&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)), context_(other.context_) {}

void Fiber::release() {
  if (memory_ != nullptr) stack_memory().give_back(std::exchange(memory_, nullptr));
}

bool Fiber::is_overflow(const void* address) const {
  const auto* at = static_cast<const std::byte*>(address);
  return memory_ != nullptr && at >= memory_ && at < memory_ + kGuardBytes;
}

void* Fiber::top() const { return memory_ + kGuardBytes + kStackBytes; }

#ifdef __x86_64__

// Jumps instead of returning, which a processor foretells.
asm(R"(
.text
.globl phi3_emulator_switch
.hidden phi3_emulator_switch
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
  popq %rcx
  jmpq *%rcx
.size phi3_emulator_switch, .-phi3_emulator_switch
.type phi3_emulator_enter, @function
phi3_emulator_enter:
  movq %r12, %rdi
  callq *%r13
  ud2
.size phi3_emulator_enter, .-phi3_emulator_enter
)");
extern "C" void phi3_emulator_enter();

void Fiber::start(void (*entry)(void*), void* argument) {
  memory_ = stack_memory().take();
  // As phi3_emulator_switch leaves a stack: r15, r14, r13, r12, rbx, rbp, where to go on. After
  // that the stack is aligned to 16 bytes, as it must be where `enter` calls.
  auto* slot = static_cast<void**>(top()) - 9;
  slot[2] = reinterpret_cast<void*>(entry);
  slot[3] = argument;
  slot[5] = nullptr;
  slot[6] = reinterpret_cast<void*>(&phi3_emulator_enter);
  context_ = slot;
}

#else

namespace {

// makecontext passes ints.
void enter(unsigned entry_high, unsigned entry_low, unsigned high, unsigned low) {
  const auto pointer = [](unsigned h, unsigned l) {
    return static_cast<std::uintptr_t>(h) << 32 | l;
  };
  reinterpret_cast<void (*)(void*)>(pointer(entry_high, entry_low))(
      reinterpret_cast<void*>(pointer(high, low)));
}

}  // namespace

void Fiber::start(void (*entry)(void*), void* argument) {
  memory_ = stack_memory().take();
  getcontext(&context_);
  context_.uc_stack.ss_sp = memory_ + kGuardBytes;
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  const auto entry_bits = reinterpret_cast<std::uintptr_t>(entry);
  const auto bits = reinterpret_cast<std::uintptr_t>(argument);
  makecontext(&context_,
              reinterpret_cast<void (*)()>(&enter),
              4,
              static_cast<unsigned>(entry_bits >> 32),
              static_cast<unsigned>(entry_bits),
              static_cast<unsigned>(bits >> 32),
              static_cast<unsigned>(bits));
}

#endif

}  // namespace phi3::emulator
