// CUDA's keywords, vector types and built-in variables.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __grid_constant__

// A vector is aligned to its size, up to 16 bytes, and an access must be: the emulator's build
// traps where it is not.
#define PHI3_VECTORS(name, type)                                                                \
  struct __align__(2 * sizeof(type)) name##2 { type x, y; };                                    \
  struct name##3 { type x, y, z; };                                                             \
  struct __align__(4 * sizeof(type) < 16 ? 4 * sizeof(type) : 16) name##4 { type x, y, z, w; }; \
  constexpr name##2 make_##name##2(type x, type y) { return {x, y}; }                           \
  constexpr name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                \
  constexpr name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

PHI3_VECTORS(uint, unsigned int)
PHI3_VECTORS(float, float)
#undef PHI3_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Of the thread that runs. Launches take turns, so one of each is enough.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
inline constexpr int warpSize = 32;
