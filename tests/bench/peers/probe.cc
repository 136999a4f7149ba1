// What this machine can do at most: read bandwidth, and the rates of the instructions that
// matrix products are made of. Prints one JSON object; null for an instruction the CPU lacks.
// g++ -O3 -march=native -std=c++20 -pthread probe.cc -o probe && ./probe THREADS [GIGABYTES]

#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRepeats = 30;

// The shortest of several runs, each of all threads at once: what disturbs only ever adds time.
double best_seconds(int num_threads, const std::function<void(int)>& work) {
  double best = 1e9;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    std::barrier gate(num_threads);
    std::vector<Clock::time_point> starts(num_threads), ends(num_threads);
    const auto run = [&](int i) {
      gate.arrive_and_wait();
      starts[i] = Clock::now();
      work(i);
      ends[i] = Clock::now();
    };
    std::vector<std::thread> threads;
    for (int i = 1; i < num_threads; ++i) threads.emplace_back(run, i);
    run(0);
    for (auto& thread : threads) thread.join();
    const auto start = *std::min_element(starts.begin(), starts.end());
    const auto end = *std::max_element(ends.begin(), ends.end());
    best = std::min(best, std::chrono::duration<double>(end - start).count());
  }
  return best;
}

void keep(const void* value) { asm volatile("" : : "g"(value) : "memory"); }

double read_gb_per_s(int num_threads, size_t num_bytes) {
  void* memory =
      mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::exit(1);
  madvise(memory, num_bytes, MADV_HUGEPAGE);
  std::memset(memory, 1, num_bytes);
  const size_t share = num_bytes / num_threads / 4096 * 4096;
  const double seconds = best_seconds(num_threads, [&](int i) {
    const auto* data = static_cast<const uint8_t*>(memory) + i * share;
#if defined(__AVX512F__)
    __m512i sums[8] = {};
    for (size_t at = 0; at < share; at += 512) {
      for (int j = 0; j < 8; ++j) {
        sums[j] = _mm512_add_epi64(sums[j], _mm512_load_si512(data + at + 64 * j));
        _mm_prefetch(reinterpret_cast<const char*>(data + at + 64 * j + 4096), _MM_HINT_T0);
      }
    }
#else
    uint64_t sums[8] = {};
    const auto* words = reinterpret_cast<const uint64_t*>(data);
    for (size_t at = 0; at < share / 8; at += 8) {
      for (int j = 0; j < 8; ++j) sums[j] += words[at + j];
    }
#endif
    keep(sums);
  });
  munmap(memory, num_bytes);
  return 1e-9 * share * num_threads / seconds;
}

// Twelve chains: as many as hide the latency, and few enough for the registers.
constexpr int kChains = 12, kRounds = 2'000'000;

// Keeps the compiler from seeing that all chains compute the same.
template <class Vector>
void hide(Vector& vector) {
  asm volatile("" : "+v"(vector));
}

template <class Step, class... Vectors>
void run_chains(const Step& step, Vectors... sums) {
  static_assert(sizeof...(sums) == kChains);
  for (int round = 0; round < kRounds; ++round) {
    ((sums = step(sums), hide(sums)), ...);
  }
  (hide(sums), ...);
}

template <class Vector, class Step>
double giga_steps_per_s(int num_threads, Vector zero, const Step& step) {
  const double seconds = best_seconds(num_threads, [=](int) {
    run_chains(step, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero);
  });
  return 1e-9 * kChains * kRounds * num_threads / seconds;
}

void print(const char* name, double value, const char* end) {
  if (value > 0) {
    std::printf("\"%s\": %.2f%s", name, value, end);
  } else {
    std::printf("\"%s\": null%s", name, end);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int num_threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const size_t num_bytes = static_cast<size_t>(argc > 2 ? std::atoi(argv[2]) : 1) << 30;
  double int8 = 0, bf16 = 0, float32 = 0;
#if defined(__AVX512VNNI__)
  const __m512i bytes = _mm512_set1_epi8(1);
  int8 = 128 * giga_steps_per_s(num_threads, _mm512_setzero_si512(), [=](__m512i sum) {
           return _mm512_dpbusd_epi32(sum, bytes, bytes);
         });
#endif
#if defined(__AVX512BF16__)
  const auto halves = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f80));
  bf16 = 64 * giga_steps_per_s(num_threads, _mm512_setzero_ps(), [=](__m512 sum) {
           return _mm512_dpbf16_ps(sum, halves, halves);
         });
#endif
#if defined(__AVX512F__)
  const __m512 floats = _mm512_set1_ps(0.5F);
  float32 = 32 * giga_steps_per_s(num_threads, _mm512_setzero_ps(), [=](__m512 sum) {
              return _mm512_fmadd_ps(floats, floats, sum);
            });
#elif defined(__FMA__)
  const __m256 floats = _mm256_set1_ps(0.5F);
  float32 = 16 * giga_steps_per_s(num_threads, _mm256_setzero_ps(), [=](__m256 sum) {
              return _mm256_fmadd_ps(floats, floats, sum);
            });
#endif
  std::printf("{");
  print("read_gb_per_s", read_gb_per_s(num_threads, num_bytes), ", ");
  print("vpdpbusd_gops", int8, ", ");
  print("vdpbf16ps_gflops", bf16, ", ");
  print("float32_fma_gflops", float32, "}\n");
}
