// The part of CUDA's runtime that csrc/cuda calls. Work is done when it is asked for, so that
// streams are always idle and events record the time of day.
#pragma once

#include <cstddef>

using cudaStream_t = struct CUstream_st*;
using cudaError_t = enum cudaError {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidDevice = 101,
  cudaErrorNotReady = 600,
  cudaErrorStreamCaptureUnsupported = 900,
};

const char* cudaGetErrorString(cudaError_t status);
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
