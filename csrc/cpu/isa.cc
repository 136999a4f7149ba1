#include "cpu/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <atomic>
#include <cstdlib>

#include "core/check.h"

namespace phi3::cpu {
namespace {

#if defined(__x86_64__)
// Whether this CPU has AVX-VNNI, which GCC 12 has no name for; the system runs it if it runs AVX2.
bool has_avx_vnni() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1U << 4)) != 0;
}

template <typename... Extend>
Kernels extended(Kernels kernels, Extend... extend) {
  (extend(kernels), ...);
  return kernels;
}
#endif

// The tables that this CPU runs, worst first. Each check names the same extensions as the compiler
// flags in kernels/CMakeLists.txt.
const std::vector<Kernels>& candidates() {
  static const std::vector<Kernels> all = [] {
    std::vector<Kernels> found{portable::kKernels};
#if defined(__x86_64__)
    const bool has_avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
    const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") != 0 &&
                            __builtin_cpu_supports("avx512bw") != 0 &&
                            __builtin_cpu_supports("avx512dq") != 0 &&
                            __builtin_cpu_supports("avx512vl") != 0;
    const bool has_vnni = has_avx512 && __builtin_cpu_supports("avx512vnni") != 0;
    if (has_avx2) found.push_back(avx2::kKernels);
    if (has_avx2 && has_avx_vnni()) found.push_back(extended(avx2::kKernels, avx2_vnni::extend));
    if (has_avx512) found.push_back(avx512::kKernels);
    if (has_vnni) found.push_back(extended(avx512::kKernels, avx512_vnni::extend));
    if (has_vnni && __builtin_cpu_supports("avx512bf16") != 0) {
      found.push_back(extended(avx512::kKernels, avx512_vnni::extend, avx512_bf16::extend));
    }
#endif
    return found;
  }();
  return all;
}

std::atomic<const Kernels*> active{nullptr};

const Kernels* find(std::string_view name, std::string_view setting) {
  std::string available;
  for (const Kernels& candidate : candidates()) {
    if (name == candidate.name) return &candidate;
    available += available.empty() ? "" : ", ";
    available += candidate.name;
  }
  fail(std::source_location::current(),
       setting,
       " is '",
       name,
       "', which this build or CPU lacks; available: ",
       available);
}

const Kernels* choose() {
  const char* forced = std::getenv("PHI3SVC_CPU_ISA");
  if (forced != nullptr && *forced != '\0') return find(forced, "PHI3SVC_CPU_ISA");
  return &candidates().back();
}

}  // namespace

const Kernels& kernels() {
  const Kernels* table = active.load(std::memory_order_acquire);
  if (table == nullptr) {
    table = choose();
    active.store(table, std::memory_order_release);
  }
  return *table;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Kernels& candidate : candidates()) names.emplace_back(candidate.name);
  return names;
}

void set_isa(std::string_view name) { active.store(find(name, "isa"), std::memory_order_release); }

}  // namespace phi3::cpu
