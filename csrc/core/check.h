// Argument checks that throw phi3::Error with the values involved and the place of the check.
#pragma once

#include <cstring>
#include <source_location>
#include <sstream>
#include <stdexcept>
#include <string>

namespace phi3 {

// A caller's mistake: a wrong shape, dtype, index or setting. Python sees it as `_core.Error`, a
// ValueError.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <typename... Parts>
[[noreturn]] __attribute__((noinline, cold)) void fail(std::source_location where,
                                                       const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  const char* slash = std::strrchr(where.file_name(), '/');
  message << " [" << (slash != nullptr ? slash + 1 : where.file_name()) << ":" << where.line()
          << "]";
  throw Error(message.str());
}

}  // namespace phi3

// PHI3_CHECK(n == m, "linear: n is ", n, ", expected ", m): the parts are joined only on failure.
#define PHI3_CHECK(condition, ...)                                \
  do {                                                            \
    if (!(condition)) [[unlikely]] {                              \
      ::phi3::fail(std::source_location::current(), __VA_ARGS__); \
    }                                                             \
  } while (false)
