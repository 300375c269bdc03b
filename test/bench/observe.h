// What a server costs, seen from outside: CPU clocks and system-call counters of other processes.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace bench {

// CPU nanoseconds that the processes have used, all their threads and the ended ones counted.
uint64_t cpuNs(const std::vector<pid_t>& pids);

// Counts system calls by name through the kernel's tracepoints, without stopping anybody. Counts
// nothing when they are not to be had (no root, no tracefs).
class SystemCalls {
 public:
  explicit SystemCalls(const std::vector<pid_t>& pids);
  ~SystemCalls();
  SystemCalls(const SystemCalls&) = delete;
  bool works() const { return works_; }
  // Since it was made; "total" is all of them.
  std::map<std::string, uint64_t> read() const;

 private:
  bool works_ = false;
  std::vector<std::pair<std::string, int>> counters_;
};

// Log-linear: 64 steps an octave, so 1.6 % at most are lost.
class Histogram {
 public:
  void add(uint64_t ns) {
    counts_[bucket(ns)]++;
    total_++;
  }
  double quantile(double q) const;

 private:
  static uint32_t bucket(uint64_t v) {
    if (v < 128) return static_cast<uint32_t>(v);
    const uint32_t octave = 63 - static_cast<uint32_t>(__builtin_clzll(v));
    const uint32_t at = (octave - 6) * 64 + 64 + static_cast<uint32_t>((v >> (octave - 6)) & 63);
    return at < kBuckets ? at : kBuckets - 1;
  }
  static double value(uint32_t at) {
    if (at < 128) return at;
    const uint32_t octave = (at - 64) / 64 + 6;
    return static_cast<double>((uint64_t(64 + at % 64) << (octave - 6))) * (1 + 0.5 / 128);
  }
  static constexpr uint32_t kBuckets = 64 * 40;
  uint64_t counts_[kBuckets] = {};
  uint64_t total_ = 0;
};

}  // namespace bench
