#include "cpu/available_cpus.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <thread>

namespace phi3::cpu {
namespace {

namespace fs = std::filesystem;

constexpr double kNoQuota = std::numeric_limits<double>::infinity();

double ratio(double quota, double period) {
  return quota > 0 && period > 0 ? quota / period : kNoQuota;
}

// "max 100000" or "150000 100000".
double quota_v2(const fs::path& cgroup) {
  std::ifstream file(cgroup / "cpu.max");
  double quota = 0;
  double period = 0;
  return file >> quota >> period ? ratio(quota, period) : kNoQuota;
}

// -1 for none.
double quota_v1(const fs::path& cgroup) {
  double quota = 0;
  double period = 0;
  std::ifstream(cgroup / "cpu.cfs_quota_us") >> quota;
  std::ifstream(cgroup / "cpu.cfs_period_us") >> period;
  return ratio(quota, period);
}

// Of a cgroup and all around it up to the mount. The mount of a container may begin at its own
// cgroup while `path` begins at the host's: what does not exist has no quota, and the mount itself
// is always looked at.
template <typename Quota>
double smallest_quota(const fs::path& mount, const fs::path& path, const Quota& quota) {
  double smallest = quota(mount);
  fs::path cgroup = mount;
  for (const fs::path& name : path.relative_path()) {
    cgroup /= name;
    smallest = std::min(smallest, quota(cgroup));
  }
  return smallest;
}

}  // namespace

std::vector<int> allowed_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> ids;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int id = 0; id < CPU_SETSIZE; ++id) {
      if (CPU_ISSET(id, &set)) ids.push_back(id);
    }
  } else {
    // A machine with more CPUs than the set holds.
    for (unsigned id = 0; id < std::thread::hardware_concurrency(); ++id) {
      ids.push_back(static_cast<int>(id));
    }
  }
  return ids;
}

double cgroup_quota(const std::string& mounts, const std::string& membership) {
  double smallest = kNoQuota;
  std::ifstream file(membership);
  // "0::/path" for v2, "4:cpu,cpuacct:/path" for v1.
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string id;
    std::string controllers;
    std::string path;
    std::getline(fields, id, ':');
    std::getline(fields, controllers, ':');
    std::getline(fields, path);
    if (controllers.empty()) {
      smallest = std::min(smallest, smallest_quota(mounts, path, quota_v2));
      continue;
    }
    std::istringstream names(controllers);
    for (std::string name; std::getline(names, name, ',');) {
      if (name == "cpu") {
        smallest =
            std::min(smallest, smallest_quota(fs::path(mounts) / controllers, path, quota_v1));
      }
    }
  }
  return smallest;
}

int num_available_cpus() {
  const double allowed = static_cast<double>(allowed_cpus().size());
  return static_cast<int>(std::max(1.0, std::round(std::min(allowed, cgroup_quota()))));
}

}  // namespace phi3::cpu
