#include "observe.h"

#include <dirent.h>
#include <linux/perf_event.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

namespace bench {

uint64_t cpuNs(const std::vector<pid_t>& pids) {
  uint64_t sum = 0;
  for (pid_t pid : pids) {
    clockid_t clock;
    timespec used;
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) != 0) continue;
    sum += static_cast<uint64_t>(used.tv_sec) * 1000000000u + static_cast<uint64_t>(used.tv_nsec);
  }
  return sum;
}

namespace {

constexpr char kEvents[] = "/sys/kernel/tracing/events/";

// What daemons of this kind use on requests; the rest shows as "other".
const char* const kNames[] = {
    "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2",
    "pwritev2", "openat", "openat2", "close", "statx", "newfstatat", "newfstat", "fstatfs", "statfs",
    "getxattr", "lgetxattr", "fgetxattr", "epoll_wait", "epoll_pwait", "poll", "ppoll", "futex",
    "getdents64", "lseek", "unlinkat", "fchdir", "open_by_handle_at", "name_to_handle_at", "setresuid",
    "setresgid", "setfsuid", "setfsgid", "setgroups", "capget", "capset", "umask", "readlinkat",
    "fchmod", "fcntl", "dup", "sendmsg", "recvmsg", "madvise", "mmap", "munmap", "sched_yield"};

int eventId(const std::string& event) {
  FILE* file = fopen((kEvents + event + "/id").c_str(), "re");
  if (file == nullptr) return -1;
  int id = -1;
  if (fscanf(file, "%d", &id) != 1) id = -1;
  fclose(file);
  return id;
}

int openCounter(int id, pid_t thread) {
  perf_event_attr attr = {};
  attr.type = PERF_TYPE_TRACEPOINT;
  attr.size = sizeof attr;
  attr.config = static_cast<uint64_t>(id);
  attr.inherit = 1;
  return static_cast<int>(syscall(SYS_perf_event_open, &attr, thread, -1, -1, PERF_FLAG_FD_CLOEXEC));
}

std::vector<pid_t> threadsOf(pid_t pid) {
  std::vector<pid_t> threads;
  DIR* folder = opendir(("/proc/" + std::to_string(pid) + "/task").c_str());
  if (folder == nullptr) return threads;
  while (dirent* entry = readdir(folder))
    if (entry->d_name[0] != '.') threads.push_back(atoi(entry->d_name));
  closedir(folder);
  return threads;
}

}  // namespace

SystemCalls::SystemCalls(const std::vector<pid_t>& pids) {
  if (access(kEvents, R_OK) != 0) mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, nullptr);
  auto add = [&](const std::string& name, const std::string& event) {
    const int id = eventId(event);
    if (id < 0) return;
    for (pid_t pid : pids)
      for (pid_t thread : threadsOf(pid)) {
        const int fd = openCounter(id, thread);
        if (fd >= 0) counters_.push_back({name, fd});
      }
  };
  add("total", "raw_syscalls/sys_enter");
  works_ = !counters_.empty();
  for (const char* name : kNames) add(name, std::string("syscalls/sys_enter_") + name);
}

SystemCalls::~SystemCalls() {
  for (const auto& counter : counters_) close(counter.second);
}

std::map<std::string, uint64_t> SystemCalls::read() const {
  std::map<std::string, uint64_t> sums;
  for (const auto& counter : counters_) {
    uint64_t count = 0;
    if (::read(counter.second, &count, sizeof count) == sizeof count && count > 0)
      sums[counter.first] += count;
  }
  return sums;
}

double Histogram::quantile(double q) const {
  uint64_t before = 0;
  for (uint32_t i = 0; i < kBuckets; i++) {
    before += counts_[i];
    if (total_ > 0 && static_cast<double>(before) >= q * static_cast<double>(total_)) return value(i);
  }
  return 0;
}

}  // namespace bench
