// A test executable: TEST(name) { EXPECT(…); } … and a main that runs them all and says where one
// failed.
#pragma once

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "core/check.h"

namespace phi3::test {

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}
inline int num_failures = 0;

struct Registration {
  Registration(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

inline void report(const char* file, int line, const std::string& what) {
  std::printf("%s:%d: %s\n", file, line, what.c_str());
  ++num_failures;
}

// The message of the Error that `fn` throws; empty when it throws none.
template <typename Fn>
std::string error_of(Fn&& fn) {
  try {
    fn();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace phi3::test

#define TEST(name)                                                          \
  static void name();                                                       \
  static const ::phi3::test::Registration registration_##name(#name, name); \
  static void name()

#define EXPECT(condition)                                                                \
  do {                                                                                   \
    if (!(condition)) ::phi3::test::report(__FILE__, __LINE__, "not true: " #condition); \
  } while (false)

#define EXPECT_EQ(actual, expected)                                              \
  do {                                                                           \
    const auto actual_value = (actual);                                          \
    const auto expected_value = (expected);                                      \
    if (!(actual_value == expected_value)) {                                     \
      std::ostringstream what;                                                   \
      what << #actual " is " << actual_value << ", expected " << expected_value; \
      ::phi3::test::report(__FILE__, __LINE__, what.str());                      \
    }                                                                            \
  } while (false)

// `statement` throws phi3::Error whose message begins with `prefix`.
#define EXPECT_ERROR(statement, prefix)                                                      \
  do {                                                                                       \
    const std::string message = ::phi3::test::error_of([&] { statement; });                  \
    if (message.rfind(prefix, 0) != 0) {                                                     \
      ::phi3::test::report(                                                                  \
          __FILE__, __LINE__, "message is '" + message + "', expected '" + (prefix) + "…'"); \
    }                                                                                        \
  } while (false)

int main() {
  for (const ::phi3::test::Test& test : ::phi3::test::tests()) {
    const int failures_before = ::phi3::test::num_failures;
    try {
      test.run();
    } catch (const std::exception& error) {
      ::phi3::test::report(test.name, 0, std::string("threw ") + error.what());
    }
    std::printf(
        "%s %s\n", ::phi3::test::num_failures == failures_before ? "ok  " : "FAIL", test.name);
  }
  return ::phi3::test::num_failures == 0 ? 0 : 1;
}
