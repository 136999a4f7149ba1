#include "cpu/isa.h"

#include <array>
#include <atomic>
#include <cstdlib>

#include "core/check.h"

namespace phi3::cpu {
namespace {

struct Candidate {
  const Kernels* kernels;
  bool (*is_supported)();
};

// Worst first. Each check names the same extensions as the compiler flags in CMakeLists.txt.
const auto kCandidates = std::to_array<Candidate>({
    {&portable::kKernels, [] { return true; }},
#if defined(__x86_64__)
    {&avx2::kKernels,
     [] { return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0; }},
    {&avx512::kKernels,
     [] {
       return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 &&
              __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
              __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
     }},
#endif
});

std::atomic<const Kernels*> active{nullptr};

const Kernels* find(std::string_view name, std::string_view setting) {
  std::string available;
  for (const Candidate& candidate : kCandidates) {
    if (!candidate.is_supported()) continue;
    if (name == candidate.kernels->name) return candidate.kernels;
    available += available.empty() ? "" : ", ";
    available += candidate.kernels->name;
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
  const Kernels* best = nullptr;
  for (const Candidate& candidate : kCandidates) {
    if (candidate.is_supported()) best = candidate.kernels;
  }
  return best;
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
  for (const Candidate& candidate : kCandidates) {
    if (candidate.is_supported()) names.emplace_back(candidate.kernels->name);
  }
  return names;
}

void set_isa(std::string_view name) { active.store(find(name, "isa"), std::memory_order_release); }

}  // namespace phi3::cpu
