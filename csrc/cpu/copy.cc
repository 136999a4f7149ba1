#include <cstring>

#include "cpu/cpu.h"

namespace phi3::cpu {

void copy(const CopyParams& params) {
  std::memcpy(params.target, params.source, static_cast<std::size_t>(params.num_bytes));
}

}  // namespace phi3::cpu
