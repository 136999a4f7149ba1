// Recorded calls: what is checked when, and what a run does.
#include <memory>
#include <thread>

#include "check.h"
#include "ops/embedding.h"
#include "ops/end_on.h"
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

TEST(runs_in_the_background_come_one_at_a_time) {
  Calls calls;
  ops::Program embed, norm;
  {
    const ops::Program::Recording recording(embed);
    ops::embedding(calls.ids, calls.table, calls.h, 4);
  }
  {
    const ops::Program::Recording recording(norm);
    ops::rms_norm(calls.h, calls.weight, calls.x, 1e-5f);
  }
  for (int i = 0; i < 300; ++i) {
    calls.ids[0] = i % 4;
    const auto first = ops::BackgroundRun::start(embed, nullptr);
    const auto second = ops::BackgroundRun::start(norm, first);
    EXPECT(second->wait());
    EXPECT(first->wait());
    const std::vector<float> found = calls.x.values();
    calls.make();
    EXPECT(has_equal_bits(found, calls.x.values()));
  }
}

TEST(what_comes_after_a_run_that_was_ended_or_failed_is_not_begun) {
  Calls calls;
  Tensor<std::int32_t> drawn({2}, {3, 1}), end_ids({2}, {-1, 1});
  ops::Program ending, all;
  {
    const ops::Program::Recording recording(ending);
    ops::end_on(drawn, end_ids);
    calls.make();
  }
  {
    const ops::Program::Recording recording(all);
    calls.make();
  }
  EXPECT(!ending.run());
  const auto ended = ops::BackgroundRun::start(ending, nullptr);
  EXPECT(!ops::BackgroundRun::start(all, ended)->wait());
  EXPECT(!ended->wait());
  EXPECT_EQ(calls.h[0], 0.0f);
  end_ids[1] = 0;
  EXPECT(ops::BackgroundRun::start(ending, nullptr)->wait());
  EXPECT_EQ(calls.h[0], 7.0f);
  calls.ids[0] = 4;
  const auto failed = ops::BackgroundRun::start(all, nullptr);
  EXPECT(!ops::BackgroundRun::start(all, failed)->wait());
  EXPECT_ERROR(failed->wait(), "embedding: token_ids[0] is 4");
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
