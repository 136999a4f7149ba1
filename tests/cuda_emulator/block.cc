#include "block.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "cuda_runtime.h"
#include "emulator/launch.h"
#include "emulator/wgmma.h"

uint3 threadIdx;

namespace phi3::emulator {

Block& block() {
  static Block the_block;
  return the_block;
}

void Block::reset(int num_threads, std::size_t shared_bytes) {
  const auto count = static_cast<std::size_t>(num_threads);
  if (threads_.size() < count) threads_.resize(count);
  num_threads_ = num_threads;
  order_.resize(count);
  for (int i = 0; i < num_threads; ++i) order_[static_cast<std::size_t>(i)] = i;
  warps_.assign((count + kWarpSize - 1) / kWarpSize, {});
  warpgroups_.assign((count + kWarpgroupSize - 1) / kWarpgroupSize, {});
  shared_memory_.resize(shared_bytes);
}

void Block::run(const std::function<void()>& body, std::minstd_rand& random) {
  body_ = &body;
  shared_memory_.poison();
  num_alive_ = num_threads_;
  alive_in_warp_.assign(warps_.size(), kWarpSize);
  if (num_threads_ % kWarpSize != 0) alive_in_warp_.back() = num_threads_ % kWarpSize;
  for (int i = 0; i < num_threads_; ++i) threads_[static_cast<std::size_t>(i)].state = State::kNew;
  std::shuffle(order_.begin(), order_.end(), random);

  while (num_alive_ > 0 && fault_.empty()) {
    bool has_moved = false;
    for (place_ = 0; place_ < order_.size() && fault_.empty(); ++place_) {
      if (!may_run(threads_[static_cast<std::size_t>(order_[place_])])) continue;
      choose(place_);
      run_chosen();
      has_moved = true;
    }
    if (!has_moved) fault_ = "deadlock: " + describe_waiting();
  }
  if (fault_.empty() && shared_memory_.is_spoilt()) {
    fault_ =
        "wrote outside of its " + std::to_string(shared_memory_.size()) + " bytes of shared memory";
  }
  forget_threads();
  if (!fault_.empty()) throw Fault(std::exchange(fault_, {}));
}

inline bool Block::may_run(Thread& thread) const {
  if (thread.state == State::kAsking && thread.is_true(thread.argument)) {
    thread.state = State::kReady;
  }
  return thread.state == State::kNew || thread.state == State::kReady;
}

inline void Block::choose(std::size_t place) {
  place_ = place;
  running_ = order_[place];
  threadIdx = {static_cast<unsigned>(running_), 0, 0};
}

// Until a thread, this one or another that it handed over to, gives up the processor.
void Block::run_chosen() {
  Thread& chosen = threads_[static_cast<std::size_t>(running_)];
  if (chosen.state == State::kNew) {
    chosen.state = State::kReady;
    chosen.fiber.start(&Block::enter, this);
  }
  switch_context(scheduler_, chosen.fiber.context());
  Thread& last = threads_[static_cast<std::size_t>(running_)];
  if (last.state == State::kDone) last.fiber.release();
  running_ = -1;
}

void Block::enter(void* block) {
  auto* self = static_cast<Block*>(block);
  (*self->body_)();
  self->end_thread();
}

void Block::end_thread() {
  --num_alive_;
  const auto warp = static_cast<std::size_t>(running_ / kWarpSize);
  --alive_in_warp_[warp];
  // Those that wait for this thread wait for the others alone.
  const auto leave = [this](Meeting& meeting, int size, int num_alive) {
    if (meeting.arrived.empty()) return;
    if (meeting.absent == Absent::kForbidden) {
      fail(std::string("exits while others wait for it at ") + meeting.what);
    }
    if (static_cast<int>(meeting.arrived.size()) == num_alive) {
      complete(meeting, size);
    }
  };
  const auto group = static_cast<std::size_t>(running_ / kWarpgroupSize);
  leave(warps_[warp], kWarpSize, alive_in_warp_[warp]);
  leave(warpgroups_[group], kWarpgroupSize, -1);
  leave(all_, 0, num_alive_);
  suspend(State::kDone, nullptr);
}

[[gnu::always_inline]] inline void Block::suspend(State state, const char* waits_for) {
  Thread& thread = threads_[static_cast<std::size_t>(running_)];
  thread.state = state;
  thread.waits_for = waits_for;
  if (state != State::kDone) {
    for (std::size_t place = place_ + 1; place < order_.size(); ++place) {
      Thread& next = threads_[static_cast<std::size_t>(order_[place])];
      if (!may_run(next)) continue;
      if (!next.fiber.is_started()) {  // the scheduler's to begin
        place_ = place - 1;
        break;
      }
      choose(place);
      return switch_context(thread.fiber.context(), next.fiber.context());
    }
  }
  switch_context(thread.fiber.context(), scheduler_);
}

[[gnu::always_inline]] inline void Block::meet(Meeting& meeting,
                                               int size,
                                               int first_thread,
                                               int num_alive,
                                               const char* what,
                                               void* argument,
                                               Act act,
                                               Absent absent) {
  if (absent == Absent::kForbidden && num_alive != size) {
    fail(std::string(what) + " wants all " + std::to_string(size) + " threads, and " +
         std::to_string(num_alive) + " are left");
  }
  if (meeting.arrived.empty()) {
    meeting.what = what;
    meeting.act = act;
    meeting.absent = absent;
    meeting.arguments.assign(static_cast<std::size_t>(size), nullptr);
  } else if (meeting.what != what && std::strcmp(meeting.what, what) != 0) {
    fail(std::string("is at ") + what + " where others of its group are at " + meeting.what);
  }
  meeting.arrived.push_back(running_);
  if (act != nullptr)
    meeting.arguments[static_cast<std::size_t>(running_ - first_thread)] = argument;
  if (static_cast<int>(meeting.arrived.size()) == num_alive) {
    complete(meeting, size);
  } else {
    suspend(State::kWaiting, what);
  }
}

inline void Block::complete(Meeting& meeting, int size) {
  if (meeting.act != nullptr) meeting.act(meeting.arguments.data(), size);
  for (const int thread : meeting.arrived) {
    if (thread != running_) threads_[static_cast<std::size_t>(thread)].state = State::kReady;
  }
  meeting.arrived.clear();
}

void Block::meet_warp(const char* what, void* argument, Act act, Absent absent) {
  const auto warp = static_cast<std::size_t>(running_ / kWarpSize);
  meet(warps_[warp],
       kWarpSize,
       static_cast<int>(warp) * kWarpSize,
       alive_in_warp_[warp],
       what,
       argument,
       act,
       absent);
}

void Block::meet_warpgroup(const char* what, void* argument, Act act) {
  const auto group = static_cast<std::size_t>(running_ / kWarpgroupSize);
  const auto first_warp = group * kWarpgroupSize / kWarpSize;
  int num_alive = 0;
  for (std::size_t i = first_warp; i < first_warp + kWarpgroupSize / kWarpSize; ++i) {
    if (i < alive_in_warp_.size()) num_alive += alive_in_warp_[i];
  }
  meet(warpgroups_[group],
       kWarpgroupSize,
       static_cast<int>(group) * kWarpgroupSize,
       num_alive,
       what,
       argument,
       act,
       Absent::kForbidden);
}

void Block::meet_block(const char* what) {
  meet(all_, 0, 0, num_alive_, what, nullptr, nullptr, Absent::kAllowed);
}

void Block::meet_barrier(const char* what, int id, int count) {
  if (id < 0 || id >= static_cast<int>(barriers_.size()) || count % kWarpSize != 0) {
    fail(std::string(what) + " of barrier " + std::to_string(id) + " by " + std::to_string(count));
  }
  meet(barriers_[static_cast<std::size_t>(id)],
       0,
       0,
       count,
       what,
       nullptr,
       nullptr,
       Absent::kAllowed);
}

void Block::wait_until(const char* what, bool (*is_true)(const void*), const void* argument) {
  Thread& thread = threads_[static_cast<std::size_t>(running_)];
  thread.is_true = is_true;
  thread.argument = argument;
  suspend(State::kAsking, what);
}

void Block::fail(const std::string& message) {
  fault_ = "thread " + std::to_string(running_) + " " + message;
  for (;;) suspend(State::kDone, nullptr);
}

void Block::fail_anew() {
  for (;;) suspend(State::kDone, nullptr);
}

void Block::forget_threads() {
  for (int i = 0; i < num_threads_; ++i) {
    Thread& thread = threads_[static_cast<std::size_t>(i)];
    thread.fiber.release();
    thread.copies.clear();
  }
  const auto forget = [](Meeting& meeting) { meeting.arrived.clear(); };
  std::for_each(warps_.begin(), warps_.end(), forget);
  std::for_each(warpgroups_.begin(), warpgroups_.end(), forget);
  std::for_each(barriers_.begin(), barriers_.end(), forget);
  forget(all_);
  forget_wgmmas();
}

// "threads 0-3, 5 at __syncthreads; …"
std::string Block::describe_waiting() const {
  std::string text;
  std::vector<const char*> told;
  for (int i = 0; i < num_threads_; ++i) {
    const Thread& thread = threads_[static_cast<std::size_t>(i)];
    if (thread.state == State::kDone) continue;
    const auto is_same = [&](const char* what) { return std::strcmp(what, thread.waits_for) == 0; };
    if (std::any_of(told.begin(), told.end(), is_same)) continue;
    told.push_back(thread.waits_for);
    if (!text.empty()) text += "; ";
    text += std::string("at ") + thread.waits_for + " threads";
    const auto waits_here = [&](int other) {
      if (other >= num_threads_) return false;
      const Thread& at = threads_[static_cast<std::size_t>(other)];
      return at.state != State::kDone && is_same(at.waits_for);
    };
    for (int first = i; first < num_threads_; ++first) {
      if (!waits_here(first)) continue;
      int last = first;
      while (waits_here(last + 1)) ++last;
      text += " " + std::to_string(first);
      if (last != first) text += "-" + std::to_string(last);
      first = last;
    }
  }
  return text;
}

}  // namespace phi3::emulator
