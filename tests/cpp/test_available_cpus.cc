#include <sched.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

#include "check.h"
#include "cpu/available_cpus.h"

namespace fs = std::filesystem;
using phi3::cpu::cgroup_quota;

namespace {

// A made-up /sys/fs/cgroup and /proc/self/cgroup.
class Cgroups {
 public:
  explicit Cgroups(const std::string& membership)
      : root_(fs::temp_directory_path() / ("phi3svc_cgroups_" + std::to_string(getpid()))) {
    fs::remove_all(root_);
    write("membership", membership);
  }
  ~Cgroups() { fs::remove_all(root_); }
  Cgroups(const Cgroups&) = delete;
  Cgroups& operator=(const Cgroups&) = delete;

  void write(const std::string& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text << "\n";
  }
  double quota() const { return cgroup_quota(root_.string(), (root_ / "membership").string()); }

 private:
  fs::path root_;
};

}  // namespace

TEST(quota_is_infinite_without_one) {
  EXPECT(std::isinf(Cgroups("").quota()));
  EXPECT(std::isinf(Cgroups("0::/").quota()));
  EXPECT(std::isinf(cgroup_quota("/nonexistent", "/nonexistent")));
  const Cgroups cgroups("0::/");
  cgroups.write("cpu.max", "max 100000");
  EXPECT(std::isinf(cgroups.quota()));
  cgroups.write("cpu.max", "nonsense");
  EXPECT(std::isinf(cgroups.quota()));
}

TEST(quota_of_a_container_is_at_its_mount) {
  for (const char* membership : {"0::/", "0::/system.slice/docker-1234.scope", "0::/../.."}) {
    const Cgroups cgroups(membership);
    cgroups.write("cpu.max", "250000 100000");
    EXPECT_EQ(cgroups.quota(), 2.5);
  }
}

TEST(quota_is_the_smallest_of_those_around) {
  const Cgroups cgroups("0::/outer/middle/inner");
  cgroups.write("outer/cpu.max", "400000 100000");
  cgroups.write("outer/middle/cpu.max", "150000 50000");
  cgroups.write("outer/middle/inner/cpu.max", "max 100000");
  cgroups.write("outer/other/cpu.max", "100000 100000");
  EXPECT_EQ(cgroups.quota(), 3.0);
}

TEST(quota_of_cgroup_v1_is_read_too) {
  const Cgroups cgroups("5:memory:/a\n4:cpu,cpuacct:/a/b\n0::/");
  cgroups.write("memory/a/cpu.cfs_quota_us", "1");
  cgroups.write("memory/a/cpu.cfs_period_us", "1");
  cgroups.write("cpu,cpuacct/cpu.cfs_quota_us", "-1");
  cgroups.write("cpu,cpuacct/cpu.cfs_period_us", "100000");
  EXPECT(std::isinf(cgroups.quota()));
  cgroups.write("cpu,cpuacct/a/b/cpu.cfs_quota_us", "50000");
  cgroups.write("cpu,cpuacct/a/b/cpu.cfs_period_us", "100000");
  EXPECT_EQ(cgroups.quota(), 0.5);
}

TEST(available_cpus_are_those_that_the_process_is_allowed) {
  const std::size_t num_allowed = phi3::cpu::allowed_cpus().size();
  EXPECT(num_allowed >= 1);
  const int num_available = phi3::cpu::num_available_cpus();
  EXPECT(num_available >= 1 && num_available <= static_cast<int>(num_allowed));
  cpu_set_t before;
  sched_getaffinity(0, sizeof before, &before);
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(phi3::cpu::allowed_cpus().back(), &one);
  sched_setaffinity(0, sizeof one, &one);
  EXPECT_EQ(phi3::cpu::allowed_cpus().size(), 1U);
  EXPECT_EQ(phi3::cpu::num_available_cpus(), 1);
  sched_setaffinity(0, sizeof before, &before);
}
