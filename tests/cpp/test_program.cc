// Recorded calls: what is checked when, and what a run does.
#include <memory>
#include <thread>

#include "check.h"
#include "ops/embedding.h"
#include "ops/program.h"
#include "ops/rms_norm.h"
#include "tensors.h"

namespace ops = phi3::ops;
using phi3::test::has_equal_bits;
using phi3::test::Tensor;

namespace {

struct Calls {
  Tensor<std::int32_t> ids{{2}, {3, 1}};
  Tensor<float> table{{4, 2}, {1, 2, 3, 4, 5, 6, 7, 8}};
  Tensor<float> weight{{2}, {1, 2}};
  Tensor<float> h{2, 2}, x{2, 2};

  void make() {
    ops::embedding(ids, table, h, 4);
    ops::rms_norm(h, weight, x, 1e-5f);
  }
};

TEST(a_run_does_what_the_calls_do) {
  Calls calls;
  ops::Program program;
  {
    const ops::Program::Recording recording(program);
    calls.make();
  }
  EXPECT(ops::Program::recorded() == nullptr);
  EXPECT_EQ(program.size(), 2U);
  EXPECT_EQ(calls.h[0], 0.0f);
  program.run();
  EXPECT_EQ(calls.h[0], 7.0f);
  calls.ids[0] = 0;
  program.run();
  const std::vector<float> found = calls.x.values();
  calls.make();
  EXPECT(has_equal_bits(found, calls.x.values()));
}

TEST(recordings_nest_and_belong_to_their_thread) {
  Calls calls, elsewhere;
  ops::Program outer, inner;
  {
    const ops::Program::Recording recording_outer(outer);
    {
      const ops::Program::Recording recording_inner(inner);
      calls.make();
      std::thread([&] { elsewhere.make(); }).join();
    }
    EXPECT(ops::Program::recorded() == &outer);
  }
  EXPECT_EQ(inner.size(), 2U);
  EXPECT_EQ(outer.size(), 0U);
  EXPECT_EQ(elsewhere.h[0], 7.0f);
}

TEST(errors_come_when_what_they_tell_of_is_known) {
  Calls calls;
  ops::Program program;
  {
    const ops::Program::Recording recording(program);
    EXPECT_ERROR(ops::rms_norm(calls.h, calls.ids, calls.x, 0), "rms_norm: weight is int32");
    calls.make();
  }
  calls.ids[1] = 4;
  EXPECT_ERROR(program.run(), "embedding: token_ids[1] is 4, expected 0..3");
  EXPECT_EQ(calls.x[0], 0.0f);
}

TEST(what_is_kept_lives_as_long_as_the_program) {
  const auto owner = std::make_shared<int>(1);
  {
    ops::Program program;
    program.keep(owner);
    EXPECT_EQ(owner.use_count(), 2);
  }
  EXPECT_EQ(owner.use_count(), 1);
}

}  // namespace
