// A thread beside the caller's, for work that goes on while the caller does something else.
#pragma once

#include <functional>

namespace phi3::cpu {

// Queues `job`, which must not throw. Jobs run one at a time, in the order in which they came, on
// one thread that lasts as long as the process. A forked child has a thread of its own, and none of
// the jobs that were queued before.
void run_in_background(std::function<void()> job);

}  // namespace phi3::cpu
