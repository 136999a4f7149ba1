// The CPUs that this process may use, by its affinity and by the quota of its container.
#pragma once

#include <string>
#include <vector>

namespace phi3::cpu {

// Ids of the CPUs that the calling thread may run on, ascending.
std::vector<int> allowed_cpus();

// How many CPUs' worth of time the kernel gives: the allowed ones, or the cgroup's quota if that is
// less, rounded to a whole number. At least 1.
int num_available_cpus();

// The smallest quota of a cgroup and of those around it, in CPUs; infinity without one. Reads
// cgroup v2 (cpu.max) and v1 (cpu.cfs_quota_us). mounts: where they are mounted. membership: the
// file that says which cgroups the process is in.
double cgroup_quota(const std::string& mounts = "/sys/fs/cgroup",
                    const std::string& membership = "/proc/self/cgroup");

}  // namespace phi3::cpu
