#include "signals.h"

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <string>

#include "block.h"

namespace phi3::emulator {

namespace {

struct sigaction g_before[NSIG];

void pass_on(int signal) {
  // The instruction runs again and meets who was there before.
  sigaction(signal, &g_before[signal], nullptr);
}

#ifdef __x86_64__

void land() { block().fail_anew(); }

void on_signal(int signal, siginfo_t* info, void* context) {
  Block& the_block = block();
  if (the_block.running() < 0) return pass_on(signal);
  const SharedMemory& shared = the_block.shared_memory();
  std::string& fault = the_block.fault();
  fault = "thread " + std::to_string(the_block.running());
  if (signal == SIGILL || signal == SIGTRAP) {
    fault += " accesses memory at an address that is not aligned";
  } else if (the_block.fiber_of_running().is_overflow(info->si_addr)) {
    fault += " overflows its stack";
  } else {
    char text[160];
    std::snprintf(text,
                  sizeof(text),
                  " accesses %p, where no memory is (its %zu bytes of shared memory are at %p)",
                  info->si_addr,
                  shared.size(),
                  static_cast<void*>(shared.data()));
    fault += text;
  }
  // Goes on at the other end of the thread's stack, of which nothing is needed any more.
  auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const auto top = reinterpret_cast<std::uintptr_t>(the_block.fiber_of_running().top());
  registers[REG_RSP] = static_cast<greg_t>(top - 8);
  registers[REG_RIP] = static_cast<greg_t>(reinterpret_cast<std::uintptr_t>(&land));
}

#else

void on_signal(int signal, siginfo_t*, void*) {
  if (block().running() >= 0) std::fprintf(stderr, "in thread %d\n", block().running());
  pass_on(signal);
}

#endif

}  // namespace

void handle_signals() {
  static const bool is_done = [] {
    constexpr std::size_t kBytes = 64 * 1024;  // a thread's own stack may have overflowed
    static char memory[kBytes];
    stack_t stack{};
    stack.ss_sp = memory;
    stack.ss_size = kBytes;
    sigaltstack(&stack, nullptr);
    struct sigaction action{};
    action.sa_sigaction = &on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGTRAP}) {
      sigaction(signal, &action, &g_before[signal]);
    }
    return true;
  }();
  static_cast<void>(is_done);
}

}  // namespace phi3::emulator
