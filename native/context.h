// The state behind one JavaScript `Context`: arena, mailbox, guest memory, event set, thread pool.
// It belongs to the thread that made it; only the pool's own threads touch it besides, and only the
// job queue (see file_io.cc).
#pragma once

#include <node_api.h>
#include <pthread.h>
#include <sys/uio.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace vfsd {

constexpr int kMailSlots = 16;
// Slots that no argument uses: jobs in flight, for how long the last wait slept and when it was (its end, where it may
// block), when changes were looked for last.
constexpr int kMailJobs = 12, kMailSleptUs = 13, kMailWaitedUs = 14, kMailPolledUs = 15;
// Those of the front end (65 at most), and two of a guest of our own.
constexpr int kMaxRings = 67;
constexpr int kMaxReady = 64;
constexpr int kMaxMessageFds = 32;
constexpr size_t kMaxRegions = 512;
// As many requests as sixteen rings of 1024 hold, which is what QEMU takes at most.
constexpr size_t kMaxJobs = 16384;
constexpr size_t kMaxLone = 256;
constexpr double kMaxSafe = 9007199254740991.0;

// A mapping of the front end's memory. Unmapped when its last holder lets go.
struct Mapping {
  uint8_t* base = nullptr;     // of the mmap
  size_t mapped = 0;           // bytes of the mmap
  int guard = -1;              // its place in the table of the SIGBUS handler (see memory_guard.cc)
  bool viewsLast = false;      // ring views keep it mapped; otherwise they are detached at the end
  ~Mapping();
};

struct Region {
  uint64_t guest = 0;
  uint64_t user = 0;
  uint64_t bytes = 0;
  uint8_t* host = nullptr;
  std::shared_ptr<Mapping> mapping;
};

// An ArrayBuffer handed to JavaScript over ring memory.
struct RingView {
  napi_ref reference = nullptr;
  uint8_t* host = nullptr;
  size_t bytes = 0;
  std::shared_ptr<Mapping> mapping;
};

// An ArrayBuffer over a file that other processes map too (see shared_memory.cc).
struct SharedView {
  napi_ref reference = nullptr;
  std::shared_ptr<Mapping> mapping;
};

struct Watched {
  int64_t token = 0;
  bool drain = false;
  bool edge = false;
};

// A piece of guest memory, by guest address.
struct GuestRange {
  uint64_t guest = 0;
  uint64_t bytes = 0;
};

// The front end's bitmap of pages written (see dirty_log.cc).
struct DirtyLog {
  std::shared_ptr<Mapping> mapping;
  uint8_t* bits = nullptr;
  uint64_t bytes = 0;
  uint64_t missed = 0;  // writes it has no bit for
};

struct Job {
  int call = 0;
  int32_t token = 0;
  double args[8] = {0};
  std::vector<iovec> iov;
  std::vector<std::shared_ptr<Mapping>> held;  // keeps guest memory mapped while the job runs
  std::vector<GuestRange> ranges;              // what it writes, for the dirty log
  uint64_t order = 0;                          // of its submission
  std::chrono::steady_clock::time_point since; // when it was submitted; of kReadBegun only
  int64_t came = 0;                            // bytes that `collect` has taken; of kReadBegun only
  int64_t result = 0;
};

// Whom a thread acts as when no guest's caller is put on: what the context's thread was made with.
struct Credentials {
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> groups;
};

// A job on a thread of its own. It belongs to that thread; the pool's mutex guards what others look at.
struct Lone {
  std::shared_ptr<struct Pool> pool;
  std::unique_ptr<Job> job;
  pthread_t thread{};
  bool interrupted = false;
};

// Threads for system calls that may block. Jobs go in from the device thread and come back to it. Each
// thread holds the pool too: one that hangs in the kernel for good must not keep `dispose` waiting.
struct Pool {
  std::mutex mutex;
  std::condition_variable wake;   // work, or the end
  std::condition_variable ended;  // a thread has left
  std::deque<std::unique_ptr<Job>> waiting;
  // Reads that the kernel is at already. One thread takes them in turn: while it waits for the first, the
  // others come in, and there is nothing to wait for. The device thread takes what has come while it is awake, and wakes
  // that thread before it sleeps. A second one helps out when that takes too long.
  std::deque<std::unique_ptr<Job>> begun;
  size_t begunBusy = 0;   // threads of the pool that are at them
  size_t begunLimit = 1;  // threads of it that may be
  std::vector<std::unique_ptr<Job>> done;
  std::vector<std::unique_ptr<Job>> reaped;  // the device thread's own: taken out of `done`
  size_t reapedCount = 0;                    // those of them that `reap` has given
  std::vector<std::unique_ptr<Job>> spare;   // the device thread's own
  std::vector<pthread_t> threads;           // those that have not left
  std::vector<Lone*> lone;                  // jobs with a thread of their own, likewise
  std::atomic<uint32_t> doneCount{0};
  std::atomic<bool> sleeping{false};  // the device thread is in, or about to enter, epoll_wait
  std::atomic<bool> stop{false};
  size_t inFlight = 0;                // the device thread's own
  std::vector<int> uses;              // likewise: descriptors of the jobs in flight, one entry for each job
  std::vector<int> closing;           // likewise: to be closed when the last job that uses them is reaped
  uint64_t submitted = 0;
  size_t idle = 0;
  size_t limit = 1;
  int doneEvent = -1;
  Credentials credentials;
  ~Pool();
};

struct Context {
  napi_env env = nullptr;
  bool disposed = false;

  uint8_t* arena = nullptr;
  size_t arenaBytes = 0;
  double* mail = nullptr;
  double* segments = nullptr;
  size_t maxSegments = 0;
  int32_t* lastAvail = nullptr;
  int32_t* ready = nullptr;
  int32_t* fds = nullptr;

  std::vector<Region> regions;  // sorted by guest address
  size_t lastHit = 0;
  std::vector<RingView> views;
  std::vector<SharedView> sharedViews;
  const uint16_t* availIndex[kMaxRings] = {nullptr};

  int epoll = -1;
  std::unordered_map<int, Watched> watched;
  std::vector<std::unique_ptr<Mapping>> fileMaps;  // by id; null where one is free
  std::vector<iovec> iov;  // scratch of readv, writev
  std::vector<GuestRange> ranges;  // likewise, when writes are logged
  std::unique_ptr<DirtyLog> log;
  DirtyLog* dirty = nullptr;  // the log while writes are logged; null costs the hot path one test
  std::shared_ptr<Pool> pool;

  Credentials credentials;
  bool groupsChanged = false;
  bool noFchmodat2 = false;
  int procFds = -1;        // /proc/self/fd
  bool inProcFds = false;  // the thread's working directory is /proc/self/fd
};

// --- checks on what JavaScript hands over ----------------------------------------------------------

// A whole number in [0, most]; false for NaN, fractions and the rest.
inline bool asUnsigned(double value, double most, uint64_t* out) {
  if (!(value >= 0) || value > most) return false;
  const uint64_t number = static_cast<uint64_t>(value);
  if (static_cast<double>(number) != value) return false;
  *out = number;
  return true;
}
inline bool asInt(double value, int* out) {
  if (!(value >= -2147483648.0 && value <= 2147483647.0)) return false;
  *out = static_cast<int>(value);
  return static_cast<double>(*out) == value;
}
inline bool asU32(double value, uint32_t* out) {
  uint64_t wide;
  if (!asUnsigned(value, 4294967295.0, &wide)) return false;
  *out = static_cast<uint32_t>(wide);
  return true;
}
inline bool asSigned(double value, int64_t* out) {
  if (!(value >= -kMaxSafe && value <= kMaxSafe)) return false;
  *out = static_cast<int64_t>(value);
  return static_cast<double>(*out) == value;
}
// `bytes` arena bytes at `at`, or null.
inline uint8_t* arenaRange(Context& c, double at, uint64_t bytes) {
  uint64_t offset;
  if (!asUnsigned(at, static_cast<double>(c.arenaBytes), &offset)) return nullptr;
  if (bytes > c.arenaBytes - offset) return nullptr;
  return c.arena + offset;
}

// --- guest_memory.cc ----------------------------------------------------------------------------
void defineGuestMemory(napi_env env, napi_value object, Context* c);
void defineFileWatch(napi_env env, napi_value object, Context* c);
// Host address of `bytes` bytes at a guest address; `*have` is how many of them lie in this region
// (at least 1). Null when the address is in no region.
uint8_t* translate(Context& c, uint64_t guest, uint64_t bytes, uint64_t* have, size_t* region);
// Appends the host ranges of segments [first, first + count), without the first `skip` bytes, at most
// `bytes` of them. Returns the bytes, or -EFAULT, -EINVAL. `held` (optional) collects the mappings,
// `ranges` (optional) the guest addresses.
int64_t gather(Context& c, double first, double count, double skip, double bytes, std::vector<iovec>* iov,
               std::vector<std::shared_ptr<Mapping>>* held, std::vector<GuestRange>* ranges);
int64_t callCopyIn(Context& c, const double* a);
int64_t callCopyOut(Context& c, const double* a);
void releaseGuestMemory(Context& c);

// --- dirty_log.cc -------------------------------------------------------------------------------
void defineDirtyLog(napi_env env, napi_value object, Context* c);
// Marks the pages of the first `bytes` bytes of `ranges`.
void markRanges(DirtyLog& log, const std::vector<GuestRange>& ranges, int64_t bytes);
int64_t callMarkDirty(Context& c, const double* a);
void dropDirtyLog(Context& c);

// --- shared_memory.cc ---------------------------------------------------------------------------
void defineSharedMemory(napi_env env, napi_value object, Context* c);
void dropSharedMemory(Context& c);

// --- event_wait.cc ------------------------------------------------------------------------------
void defineEventWait(napi_env env, napi_value object, Context* c);
int64_t callWait(Context& c, const double* a);
int64_t callNowUs(Context& c, const double* a);
int64_t callPreemptions(Context& c, const double* a);
int64_t callEventSignal(Context& c, const double* a);
int64_t callPollNow(Context& c, const double* a);
// Spins for `forUs` microseconds at least. True, and at once: a watched ring has moved past what JavaScript took, or
// a job is finished.
bool spin(Context& c, int64_t until);
// Of CLOCK_MONOTONIC.
int64_t microseconds();
// How a descriptor takes a signal. The numbers are SignalKind of src/native/addon.ts.
enum SignalKind { kEventFd = 1, kSocket = 2, kOther = 3 };
int signalFd(int fd, int kind);
int signalKind(int fd);

// --- file_map.cc --------------------------------------------------------------------------------
void defineFileMap(napi_env env, napi_value object, Context* c);
int64_t callReadMapped(Context& c, const double* a);

// --- unix_socket.cc -----------------------------------------------------------------------------
void defineSocketCalls(napi_env env, napi_value object, Context* c);
void defineModuleSockets(napi_env env, napi_value exports);

// --- process.cc ---------------------------------------------------------------------------------
void defineModuleProcess(napi_env env, napi_value exports);

// --- file_io.cc ---------------------------------------------------------------------------------
int64_t callReadv(Context& c, const double* a);
int64_t callWritev(Context& c, const double* a);
int64_t callReadvAfter(Context& c, const double* a);
int64_t callSubmit(Context& c, const double* a);
int64_t callSubmitAlone(Context& c, const double* a);
int64_t callInterrupt(Context& c, const double* a);
int64_t callReap(Context& c, const double* a);
// Lets another thread help with reads that wait too long. Milliseconds until that may be needed next, or -1.
int helpBegunReads(Context& c);
// Whether a job in flight uses `fd`: it is closed then when the last of them is reaped. Its number must not go to
// another file while a job that has not begun still means this one.
bool closeLater(Context& c, int fd);
void stopPool(Context& c);

// --- memory_guard.cc ----------------------------------------------------------------------------
// A mapping of a file that its owner may cut short: touching what is gone raises SIGBUS. A guarded
// mapping gets zero pages there instead, and is known as torn from then on. Returns the guard, or -1
// when the table is full.
int guardMapping(uint8_t* base, size_t bytes);
void dropGuard(int guard);
bool isTorn(int guard);

// --- fs_calls.cc --------------------------------------------------------------------------------
struct HotCall {
  const char* name;
  int64_t (*run)(Context& c, const double* args);
};
extern const HotCall kFsCalls[];
extern const size_t kFsCallCount;
// The calls of PoolCall beyond readv and writev, on plain numbers.
// Makes the descriptor on /proc/self/fd that each context has refer to what `by` refers to. 0 or -errno. For
// before any thread stands there (unshareFs).
int replaceProcFds(int by);
// Makes the calling thread act as `who` again. Returns 0 or -errno.
int takeCredentials(const Credentials& who, bool groupsToo);
int64_t plainFsync(const double* a);
int64_t plainSyncfs(const double* a);
int64_t plainFallocate(const double* a);
int64_t plainCopyFileRange(const double* a);
int64_t plainClose(const double* a);
int64_t plainFlock(const double* a);
int64_t plainOfdLock(const double* a);
int64_t plainFtruncate(const double* a);

// --- context.cc ---------------------------------------------------------------------------------
napi_value createContext(napi_env env, napi_callback_info info);
void disposeContext(Context& c);

// --- small N-API helpers ------------------------------------------------------------------------
// Adds a function property whose data is `data`.
void defineFunction(napi_env env, napi_value object, const char* name, napi_callback callback, void* data);
napi_value number(napi_env env, double value);
// Reads up to `most` arguments and the callback's data.
size_t arguments(napi_env env, napi_callback_info info, napi_value* out, size_t most, void** data);
bool toDouble(napi_env env, napi_value value, double* out);
bool toInt(napi_env env, napi_value value, int* out);
bool toText(napi_env env, napi_value value, std::string* out);
bool toBig(napi_env env, napi_value value, uint64_t* out);
napi_value typeError(napi_env env, const char* message);

}  // namespace vfsd
