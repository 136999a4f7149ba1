#include "check.h"
#include "core/philox.h"

using phi3::philox;
using phi3::PhiloxCounter;

namespace {

void expect_block(const PhiloxCounter& actual, const PhiloxCounter& expected) {
  for (std::size_t word = 0; word < 4; ++word) EXPECT_EQ(actual[word], expected[word]);
}

}  // namespace

// The known-answer vectors of the authors' Random123 library (kat_vectors, philox4x32 10).
TEST(philox_gives_the_published_blocks) {
  expect_block(philox({0, 0, 0, 0}, {0, 0}), {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  expect_block(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
               {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  expect_block(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
               {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}
