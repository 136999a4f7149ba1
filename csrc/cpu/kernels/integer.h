// Bytes and sixteen int32 lanes (Integers) of the ISA being compiled.
#pragma once

#include "cpu/kernels/vec.h"

#if defined(PHI3_ISA_AVX512)
#include "cpu/kernels/integer_avx512.h"
#elif defined(PHI3_ISA_AVX2)
#include "cpu/kernels/integer_avx2.h"
#else
#include "cpu/kernels/integer_portable.h"
#endif

namespace phi3::cpu::PHI3_ISA {
namespace {

// What `add_dot` adds beside Σ v · x, in units of Σ x: see weight_format.h.
#if defined(PHI3_ISA_AVX2) && !defined(PHI3_HAS_VNNI)
constexpr int kDotOffset = 0;
#else
constexpr int kDotOffset = 128;
#endif

}  // namespace
}  // namespace phi3::cpu::PHI3_ISA
