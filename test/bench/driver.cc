// The load generator of the bench: one guest without a VM on one vhost-user-fs daemon.
//
//   driver --socket PATH | --null   [--queues N] [--tree memory|disk] [--cold-file HOST_PATH]
//         [--pages FILE]
//
// Commands come on standard input, one a line; each is answered with one line of JSON:
//   rows                                              names of all rows
//   pids P...                                         whose CPU time and system calls are counted
//   run ROW DEPTH QUEUES MS MAXOPS sleep|spin [RATE]  measures; RATE operations begin in each second, evenly,
//                                                     at depth 1; 0: each begins when the one before has ended
//   count ROW DEPTH QUEUES MS MAXOPS sleep|spin       the same, with system calls by name; what is
//                                                     measured afterwards has them too, until `pids`
// An end of input ends it. With --null a thread of its own stands in for the daemon and answers
// everything at once: that is the driver's own cost.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <iostream>
#include <sstream>
#include <thread>

#include "guest.h"
#include "observe.h"
#include "rows.h"

namespace bench {
namespace {

struct Options {
  std::string socket, tree = "memory", coldFile, pages;
  uint32_t queues = 1;
  bool null = false;
};

struct Command {
  std::string row;
  uint32_t depth = 1, queues = 1, ms = 100;
  uint64_t maxOps = 0;
  uint64_t rate = 0;
  bool spin = false;
};

// A request queue served by a thread here: takes, answers without error, gives back.
class NullServer {
 public:
  explicit NullServer(Guest& guest) : guest_(guest), thread_([this] { serve(); }) {}
  ~NullServer() {
    stop_ = true;
    thread_.join();
  }

 private:
  void serve() {
    Ring& r = guest_.ring(1);
    uint16_t taken = 0;
    while (!stop_.load(std::memory_order_relaxed)) {
      if (__atomic_load_n(&r.avail[1], __ATOMIC_ACQUIRE) == taken) {
        __builtin_ia32_pause();
        continue;
      }
      const uint16_t head = r.avail[2 + (taken & (r.size - 1))];
      answer(r, head, taken);
      taken++;
    }
  }
  void answer(Ring& r, uint16_t head, uint16_t taken) {
    auto* table = reinterpret_cast<vring_desc*>(guest_.atAddress(r.desc[head].addr));
    const auto& in = *reinterpret_cast<fuse_in_header*>(guest_.atAddress(table[0].addr));
    uint32_t room = 0, last = 0;
    uint8_t *reply = nullptr, *body = nullptr;
    for (;; last++) {
      if ((table[last].flags & VRING_DESC_F_WRITE) != 0) {
        if (reply == nullptr)
          reply = guest_.atAddress(table[last].addr);
        else if (body == nullptr)
          body = guest_.atAddress(table[last].addr);
        room += table[last].len;
      }
      if ((table[last].flags & VRING_DESC_F_NEXT) == 0) break;
    }
    auto& out = *reinterpret_cast<fuse_out_header*>(reply);
    out = {room, in.opcode == FUSE_GETXATTR ? -ENODATA : 0, in.unique};
    if (in.opcode == FUSE_LOOKUP) reinterpret_cast<fuse_entry_out*>(body)->nodeid = 0;
    r.elements[taken & (r.size - 1)] = {head, room};
    __atomic_store_n(&r.used[1], static_cast<uint16_t>(taken + 1), __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    const uint16_t event = __atomic_load_n(&r.avail[2 + r.size], __ATOMIC_RELAXED);
    const uint64_t one = 1;
    if (vring_need_event(event, static_cast<uint16_t>(taken + 1), taken) &&
        write(r.call, &one, sizeof one) < 0)
      die("call");
  }
  Guest& guest_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

Tree findTree(Guest& g, const Options& options) {
  Tree t;
  if (options.null) {
    t.folders.assign(kFolders, 1);
    t.files.assign(kFolders * kFilesEach, 0);
    return t;
  }
  char name[64];
  if (options.tree == "disk") {
    t.cold = g.lookup(t.root, "cold");
    return t;
  }
  t.list = g.lookup(t.root, "list");
  t.work = g.lookup(t.root, "work");
  t.data = g.lookup(t.root, "data");
  t.out = g.lookup(t.root, "out");
  t.dataFh = g.open(FUSE_OPEN, t.data, 0100000);
  t.outFh = g.open(FUSE_OPEN, t.out, 0100002);
  for (uint32_t d = 0; d < kFolders; d++) {
    snprintf(name, sizeof name, "folder-%u", d);
    t.folders.push_back(g.lookup(t.root, name));
    for (uint32_t f = 0; f < kFilesEach; f++) {
      snprintf(name, sizeof name, "file-%04u", f);
      t.files.push_back(g.lookup(t.folders[d], name));
    }
  }
  return t;
}

struct Measured {
  Histogram latency;
  uint64_t ops = 0, requests = 0, kicks = 0, sleeps = 0, signals = 0;
  uint64_t ns = 0, serverNs = 0, driverNs = 0;
  // Operations that ended in each slice of time.
  std::vector<uint32_t> slices;
};

// Short against a neighbour's interference, long against an operation.
constexpr uint64_t kSliceNs = 5000000;

// Operations a second in the ninth decile of the slices: what the server does while nobody else takes
// its CPU. The last slice is not whole. The mean where a slice holds too few operations to say: after a
// stall all that is in flight ends at once.
double undisturbedRate(const Measured& m, uint32_t depth) {
  std::vector<uint32_t> whole(m.slices.begin(), m.slices.empty() ? m.slices.end() : m.slices.end() - 1);
  std::sort(whole.begin(), whole.end());
  const uint32_t at = whole.empty() ? 0 : whole[whole.size() * 9 / 10];
  if (whole.size() < 10 || at < 20 || at < 2 * depth)
    return static_cast<double>(m.ops) * 1e9 / static_cast<double>(m.ns);
  return at * 1e9 / kSliceNs;
}

class Runner {
 public:
  Runner(Guest& g, const Tree& t, const std::vector<pid_t>& pids) : g_(g), t_(t), pids_(pids) {}

  // Keeps `depth` operations going for so long or so many; then lets all of them end.
  void go(Row& row, const Command& c, uint64_t ns, uint64_t maxOps, Measured* m) {
    const Counters before = g_.counters;
    g_.takeSignals();
    const uint64_t server = cpuNs(pids_), driver = threadNs();
    const uint64_t start = nowNs();
    const uint64_t until = start + ns;
    uint64_t started = 0, ended = 0, last = start;
    uint32_t active = 0;
    Slot* paced = nullptr;
    auto launch = [&](Slot& s, uint64_t now) {
      if (now >= until || (maxOps > 0 && started >= maxOps)) return;
      s.step = 0;
      if (!row.request(g_, t_, s)) return;
      s.startedNs = now;
      started++;
      active++;
      g_.submit(s);
    };
    for (uint32_t i = 0; i < c.depth; i++) {
      g_.slot(i).queue = 1 + i % c.queues;
      launch(g_.slot(i), nowNs());
    }
    while (active > 0) {
      const uint32_t taken = g_.poll([&](Slot& s) {
        if (!row.finished(g_, t_, s)) {
          s.step++;
          row.request(g_, t_, s);
          g_.submit(s);
          return;
        }
        last = nowNs();
        if (m != nullptr) {
          m->latency.add(last - s.startedNs);
          const uint64_t slice = (last - start) / kSliceNs;
          if (slice >= m->slices.size()) m->slices.resize(slice + 1);
          m->slices[slice]++;
        }
        ended++;
        active--;
        if (c.rate == 0)
          launch(s, last);
        else
          paced = &s;
      });
      if (paced != nullptr) {
        sleepUntil(std::min(start + started * 1000000000 / c.rate, until));
        launch(*paced, nowNs());
        paced = nullptr;
      }
      if (taken > 0) {
        idleSince_ = 0;
        continue;
      }
      if (c.spin)
        __builtin_ia32_pause();
      else
        g_.sleep(1000);
      if (idleSince_ == 0) idleSince_ = nowNs();
      if ((++idle_ & 0xff) == 0 && nowNs() - idleSince_ > 30000000000ull) {
        fprintf(stderr, "driver: %s: the back end does not answer\n", c.row.c_str());
        exit(2);
      }
    }
    if (m == nullptr) return;
    m->ops = ended;
    m->ns = last - start;
    m->serverNs = cpuNs(pids_) - server;
    m->driverNs = threadNs() - driver;
    m->requests = g_.counters.requests - before.requests;
    m->kicks = g_.counters.kicks - before.kicks;
    m->sleeps = g_.counters.sleeps - before.sleeps;
    m->signals = g_.takeSignals();
  }

 private:
  static void sleepUntil(uint64_t ns) {
    const timespec at = {static_cast<time_t>(ns / 1000000000), static_cast<long>(ns % 1000000000)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr) == EINTR) {
    }
  }
  static uint64_t threadNs() {
    timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return static_cast<uint64_t>(used.tv_sec) * 1000000000u + static_cast<uint64_t>(used.tv_nsec);
  }
  Guest& g_;
  const Tree& t_;
  const std::vector<pid_t>& pids_;
  uint64_t idleSince_ = 0;
  uint32_t idle_ = 0;
};

void dropCache(const std::string& file) {
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) die(file.c_str());
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  close(fd);
}

void run(Guest& g, const Tree& t, const std::vector<pid_t>& pids, const Options& options,
         const Command& c, const SystemCalls* counters) {
  std::unique_ptr<Row> row = makeRow(c.row);
  const bool cold = c.row.rfind("cold-", 0) == 0;
  if (row == nullptr || cold != (options.tree == "disk") || c.depth < 1 || c.depth > kMaxDepth ||
      c.queues < 1 || c.queues > g.requestQueues()) {
    printf("{\"error\":\"cannot run %s at this depth, on these queues, or on this tree\"}\n", c.row.c_str());
    return;
  }
  Measured m;
  Runner runner(g, t, pids);
  row->begin(g, t, c.depth);
  const uint64_t ns = uint64_t(c.ms) * 1000000;
  if (cold)
    dropCache(options.coldFile);
  else
    runner.go(*row, c, ns / 5, c.maxOps > 0 ? c.maxOps / 5 + 1 : 0, nullptr);
  std::map<std::string, uint64_t> calls;
  if (counters != nullptr) calls = counters->read();
  runner.go(*row, c, ns, c.maxOps, &m);
  const bool counted = counters != nullptr && counters->works();
  if (counted)
    for (auto& call : counters->read()) calls[call.first] = call.second - calls[call.first];
  row->end(g, t);
  printf("{\"row\":\"%s\",\"depth\":%u,\"queues\":%u,\"wait\":\"%s\",\"ops\":%llu,\"requests\":%llu,"
         "\"ns\":%llu,\"rate\":%.0f,\"p50\":%.0f,\"p99\":%.0f,\"p999\":%.0f,\"serverNs\":%llu,\"driverNs\":%llu,"
         "\"kicks\":%llu,\"signals\":%llu,\"sleeps\":%llu,\"errors\":%llu",
         c.row.c_str(), c.depth, c.queues, c.spin ? "spin" : "sleep", (unsigned long long)m.ops,
         (unsigned long long)m.requests, (unsigned long long)m.ns, undisturbedRate(m, c.depth), m.latency.quantile(0.5),
         m.latency.quantile(0.99), m.latency.quantile(0.999), (unsigned long long)m.serverNs,
         (unsigned long long)m.driverNs, (unsigned long long)m.kicks, (unsigned long long)m.signals,
         (unsigned long long)m.sleeps, (unsigned long long)row->errors);
  if (row->firstError != nullptr) printf(",\"firstError\":\"%s\"", row->firstError);
  if (counted) {
    printf(",\"systemCalls\":{");
    const char* comma = "";
    for (const auto& call : calls) {
      printf("%s\"%s\":%llu", comma, call.first.c_str(), (unsigned long long)call.second);
      comma = ",";
    }
    printf("}");
  }
  printf("}\n");
}

bool parse(std::istringstream& words, Command& c) {
  std::string wait;
  if (!(words >> c.row >> c.depth >> c.queues >> c.ms >> c.maxOps >> wait)) return false;
  c.spin = wait == "spin";
  if (!(words >> c.rate)) c.rate = 0;
  if (c.rate > 0 && c.depth != 1) return false;
  return c.spin || wait == "sleep";
}

int serve(const Options& options) {
  rlimit files = {65536, 65536};
  setrlimit(RLIMIT_NOFILE, &files);
  Guest guest(options.queues, options.pages);
  std::unique_ptr<NullServer> null;
  if (options.null) {
    null = std::make_unique<NullServer>(guest);
  } else {
    guest.connect(options.socket);
    guest.init();
  }
  const Tree tree = findTree(guest, options);
  std::vector<pid_t> pids;
  std::unique_ptr<SystemCalls> counters;
  printf("{\"ready\":true,\"queues\":%u}\n", guest.requestQueues());
  fflush(stdout);
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string what;
    words >> what;
    Command c;
    if (what == "pids") {
      pids.clear();
      counters.reset();
      for (pid_t pid; words >> pid;) pids.push_back(pid);
      printf("{\"pids\":%zu}\n", pids.size());
    } else if (what == "rows") {
      printf("{\"rows\":[");
      const char* comma = "";
      for (const std::string& name : rowNames()) printf("%s\"%s\"", comma, name.c_str()), comma = ",";
      printf("]}\n");
    } else if ((what == "run" || what == "count") && parse(words, c)) {
      // Opening and closing them takes seconds: they stay, and slow the server a little from then on.
      if (what == "count" && counters == nullptr) counters = std::make_unique<SystemCalls>(pids);
      run(guest, tree, pids, options, c, counters.get());
    } else {
      printf("{\"error\":\"not a command\"}\n");
    }
    fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  bench::Options options;
  for (int i = 1; i < argc; i++) {
    const std::string key = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (key == "--null") {
      options.null = true;
      continue;
    }
    i++;
    if (key == "--socket")
      options.socket = value;
    else if (key == "--queues")
      options.queues = static_cast<uint32_t>(atoi(value.c_str()));
    else if (key == "--tree")
      options.tree = value;
    else if (key == "--cold-file")
      options.coldFile = value;
    else if (key == "--pages")
      options.pages = value;
    else
      options.queues = 0;
  }
  if (options.queues < 1 || options.queues >= bench::kMaxQueues ||
      (options.socket.empty() && !options.null)) {
    fprintf(stderr, "usage: driver --socket PATH | --null [--queues 1-4] [--tree memory|disk] [--cold-file PATH] [--pages PATH]\n");
    return 2;
  }
  return bench::serve(options);
}
