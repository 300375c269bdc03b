// File data: preadv2 and pwritev2 between a descriptor and guest memory, now or in the pool.
// readv, writev, submit and reap run on the context's thread; `work` on the pool's.
#include "context.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <chrono>

namespace vfsd {

Pool::~Pool() {
  if (doneEvent >= 0) close(doneEvent);
}

namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr auto kPatience = std::chrono::milliseconds(500);  // before blocked calls are interrupted
constexpr auto kStopLimit = std::chrono::seconds(2);
constexpr auto kStopRound = std::chrono::milliseconds(10);
constexpr auto kInterruptRound = std::chrono::milliseconds(1);
// A read that was begun is mostly there when its turn comes; so long it may wait for those before it.
constexpr size_t kMostHeadBytes = 64;
constexpr int kBegunPatienceMs = 2;
// Between two tries of a read: a try costs about 1 us, a disk takes tens of them.
constexpr uint64_t kRetryUs = 2;

// Goes on after a full transfer of one IOV_MAX piece of a long list; stops at the first short one.
int64_t transfer(bool reading, int fd, const std::vector<iovec>& iov, int64_t offset, int flags,
                 const std::atomic<bool>& stop) {
  int64_t total = 0;
  for (size_t i = 0; i < iov.size(); i += IOV_MAX) {
    const int count = static_cast<int>(std::min<size_t>(IOV_MAX, iov.size() - i));
    int64_t wanted = 0;
    for (int k = 0; k < count; k++) wanted += static_cast<int64_t>(iov[i + static_cast<size_t>(k)].iov_len);
    ssize_t moved;
    do
      moved = reading ? preadv2(fd, &iov[i], count, offset + total, flags)
                      : pwritev2(fd, &iov[i], count, offset + total, flags);
    while (moved < 0 && errno == EINTR && !stop);
    if (moved < 0) return total > 0 ? total : -errno;
    total += moved;
    if (moved < wanted) break;
  }
  return total;
}

// fd, first, count, skip, bytes, offset, flags
bool ioArguments(const double* a, int* fd, int64_t* offset, int* flags) {
  uint64_t from;
  if (!asInt(a[0], fd) || *fd < 0 || !asUnsigned(a[5], kMaxSafe, &from) || !asInt(a[6], flags)) return false;
  *offset = static_cast<int64_t>(from);
  return true;
}

// With `forUs` again and again while the answer is EAGAIN, for so many microseconds; less when there is other work.
int64_t io(Context& c, const double* a, bool reading, uint64_t forUs) {
  int fd, flags;
  int64_t offset;
  if (!ioArguments(a, &fd, &offset, &flags)) return -EINVAL;
  const bool logged = reading && c.dirty != nullptr;
  c.iov.clear();
  c.ranges.clear();
  const int64_t bytes = gather(c, a[1], a[2], a[3], a[4], &c.iov, nullptr, logged ? &c.ranges : nullptr);
  if (bytes <= 0) return bytes;
  int64_t moved = transfer(reading, fd, c.iov, offset, flags, c.pool->stop);
  if (moved == -EAGAIN && forUs > 0) {
    const int64_t until = microseconds() + static_cast<int64_t>(forUs);
    while (moved == -EAGAIN && microseconds() < until && !spin(c, microseconds() + kRetryUs))
      moved = transfer(reading, fd, c.iov, offset, flags, c.pool->stop);
  }
  if (logged) markRanges(*c.dirty, c.ranges, moved);
  return moved;
}

enum PoolCall {
  kReadv,
  kWritev,
  kFsync,
  kSyncfs,
  kFallocate,
  kCopyFileRange,
  kClose,
  kFlock,
  kFtruncate,
  kOfdLock,
  kReadBegun,
  kPoolCalls
};
bool reads(int call) { return call == kReadv || call == kReadBegun; }

int64_t performTransfer(const Job& job, int flags, const std::atomic<bool>& stop) {
  return transfer(reads(job.call), static_cast<int>(job.args[0]), job.iov, static_cast<int64_t>(job.args[5]),
                  static_cast<int>(job.args[6]) | flags, stop);
}

// The first `bytes` of what a read still wants have come.
void advance(Job& job, int64_t bytes) {
  job.came += bytes;
  job.args[5] += static_cast<double>(bytes);
  size_t used = 0;
  for (uint64_t left = static_cast<uint64_t>(bytes); used < job.iov.size(); used++) {
    iovec& one = job.iov[used];
    const size_t part = std::min<size_t>(one.iov_len, left);
    one.iov_base = static_cast<uint8_t*>(one.iov_base) + part;
    one.iov_len -= part;
    left -= part;
    if (one.iov_len > 0) break;
  }
  job.iov.erase(job.iov.begin(), job.iov.begin() + static_cast<std::ptrdiff_t>(used));
}

// Takes what has come of a read, without waiting. False: that is not all yet.
bool collect(Job& job, const std::atomic<bool>& stop) {
  const int64_t moved = performTransfer(job, RWF_NOWAIT, stop);
  if (moved == -EAGAIN || moved == -EOPNOTSUPP) return false;
  if (moved > 0) advance(job, moved);
  if (moved > 0 && !job.iov.empty()) return false;
  job.result = job.came > 0 ? job.came : moved;
  return true;
}

int64_t perform(const Job& job, const std::atomic<bool>& stop) {
  switch (job.call) {
    case kReadv:
    case kWritev:
      return performTransfer(job, 0, stop);
    case kReadBegun: {
      const int64_t moved = performTransfer(job, 0, stop);
      return job.came > 0 ? job.came + std::max<int64_t>(moved, 0) : moved;
    }
    case kFsync:
      return plainFsync(job.args);
    case kSyncfs:
      return plainSyncfs(job.args);
    case kFallocate:
      return plainFallocate(job.args);
    case kCopyFileRange:
      return plainCopyFileRange(job.args);
    case kClose:
      return plainClose(job.args);
    case kFlock:
      return plainFlock(job.args);
    case kFtruncate:
      return plainFtruncate(job.args);
    case kOfdLock:
      return plainOfdLock(job.args);
    default:
      return -EINVAL;
  }
}

// Ends a system call of a pool thread with EINTR, and does nothing else. Node uses no real-time signal.
int wakeSignal() { return SIGRTMAX - 2; }

void ignoreWake(int) {}

// Reads of `begun` that threads of the pool may take now. With the pool's mutex held.
size_t begunRoom(const Pool& pool) {
  return std::min(pool.begun.size(), pool.begunLimit - std::min(pool.begunLimit, pool.begunBusy));
}

// Jobs that a thread could take now. With the pool's mutex held.
size_t claimed(const Pool& pool) { return pool.waiting.size() + begunRoom(pool); }

// The oldest job that may be taken now, or none. With the pool's mutex held.
std::unique_ptr<Job> take(Pool& pool) {
  const bool begun = begunRoom(pool) > 0 &&
                     (pool.waiting.empty() || pool.begun.front()->order < pool.waiting.front()->order);
  std::deque<std::unique_ptr<Job>>& from = begun ? pool.begun : pool.waiting;
  if (from.empty()) return nullptr;
  std::unique_ptr<Job> job = std::move(from.front());
  from.pop_front();
  if (begun) pool.begunBusy++;
  return job;
}

// A thread of the pool starts with every signal blocked, those belong to the main thread, and with the
// credentials of whoever the device thread acted as at that moment: it puts on the context's own. False: it
// could not.
bool begin(const Pool& pool, const char* name) {
  pthread_setname_np(pthread_self(), name);
  const bool ours = takeCredentials(pool.credentials, true) == 0 || geteuid() == pool.credentials.uid;
  sigset_t wake;
  sigemptyset(&wake);
  sigaddset(&wake, wakeSignal());
  pthread_sigmask(SIG_UNBLOCK, &wake, nullptr);
  return ours;
}

// With the pool's mutex held. True: the device thread sleeps and is to be signalled; the first to see that does it.
bool finish(Pool& pool, std::unique_ptr<Job> job) {
  pool.done.push_back(std::move(job));
  pool.doneCount.fetch_add(1, std::memory_order_seq_cst);
  return pool.sleeping.exchange(false, std::memory_order_seq_cst);
}

void* work(void* argument) {
  const std::unique_ptr<std::shared_ptr<Pool>> owned(static_cast<std::shared_ptr<Pool>*>(argument));
  Pool& pool = **owned;
  const bool ours = begin(pool, "virtiofsd-pool");
  std::unique_lock<std::mutex> lock(pool.mutex);
  for (;;) {
    pool.idle++;
    pool.wake.wait(lock, [&] { return pool.stop || claimed(pool) > 0; });
    pool.idle--;
    std::unique_ptr<Job> job = take(pool);
    if (job == nullptr) break;  // stopping, and nothing is left to do
    lock.unlock();
    job->result = ours ? perform(*job, pool.stop) : -EPERM;
    job->held.clear();
    lock.lock();
    if (job->call == kReadBegun) {
      pool.begunBusy--;
      if (pool.begun.empty()) pool.begunLimit = 1;
    }
    if (!finish(pool, std::move(job))) continue;
    lock.unlock();
    signalFd(pool.doneEvent, kEventFd);
    lock.lock();
  }
  pool.threads.erase(std::find(pool.threads.begin(), pool.threads.end(), pthread_self()));
  pool.ended.notify_all();
  return nullptr;
}

// One job, until it is done or interrupted.
void* workAlone(void* argument) {
  const std::unique_ptr<Lone> own(static_cast<Lone*>(argument));
  Pool& pool = *own->pool;
  const bool ours = begin(pool, "virtiofsd-wait");
  std::unique_lock<std::mutex> lock(pool.mutex);
  Job& job = *own->job;
  job.result = -EINTR;
  while (job.result == -EINTR && !own->interrupted && !pool.stop) {
    lock.unlock();
    job.result = ours ? perform(job, pool.stop) : -EPERM;
    lock.lock();
  }
  if (finish(pool, std::move(own->job))) signalFd(pool.doneEvent, kEventFd);
  pool.lone.erase(std::find(pool.lone.begin(), pool.lone.end(), own.get()));
  pool.ended.notify_all();
  return nullptr;
}

// With the pool's mutex held. Returns 0 or -errno.
int startThread(pthread_t* thread, void* (*run)(void*), void* argument) {
  static const bool handled = [] {
    struct sigaction action = {};
    action.sa_handler = ignoreWake;  // without SA_RESTART: the call ends
    return sigaction(wakeSignal(), &action, nullptr) == 0;
  }();
  if (!handled) return -EAGAIN;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  const int fault = pthread_create(thread, &attributes, run, argument);
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return -fault;
}

int startWorker(const std::shared_ptr<Pool>& pool) {
  auto* owned = new std::shared_ptr<Pool>(pool);
  pthread_t thread;
  const int fault = startThread(&thread, work, owned);
  if (fault == 0)
    pool->threads.push_back(thread);
  else
    delete owned;
  return fault;
}

// Descriptors that a job is given by number; returns how many.
int descriptorsOf(const Job& job, int* fds) {
  int count = 0;
  if (job.call != kClose && asInt(job.args[0], &fds[count])) count++;
  if (job.call == kCopyFileRange && asInt(job.args[2], &fds[count])) count++;
  return count;
}

void noteUse(Pool& pool, const Job& job) {
  int fds[2];
  const int count = descriptorsOf(job, fds);
  pool.uses.insert(pool.uses.end(), fds, fds + count);
}

void noteEnd(Pool& pool, const Job& job) {
  int fds[2];
  const int count = descriptorsOf(job, fds);
  for (int i = 0; i < count; i++) {
    const auto use = std::find(pool.uses.begin(), pool.uses.end(), fds[i]);
    *use = pool.uses.back();
    pool.uses.pop_back();
    if (pool.closing.empty() || std::find(pool.uses.begin(), pool.uses.end(), fds[i]) != pool.uses.end()) continue;
    const auto last = std::find(pool.closing.begin(), pool.closing.end(), fds[i]);
    if (last == pool.closing.end()) continue;
    close(fds[i]);
    pool.closing.erase(last);
  }
}

std::unique_ptr<Job> takeSpare(Pool& pool) {
  if (pool.spare.empty()) return std::make_unique<Job>();
  std::unique_ptr<Job> job = std::move(pool.spare.back());
  pool.spare.pop_back();
  return job;
}

// JavaScript sees by the mailbox whether there is anything to reap.
void countJobs(Context& c, int more) {
  c.pool->inFlight += static_cast<size_t>(more);
  c.mail[kMailJobs] = static_cast<double>(c.pool->inFlight);
}

}  // namespace

// fd, first, count, skip, bytes, offset, flags, forUs
int64_t callReadv(Context& c, const double* a) {
  uint64_t forUs;
  if (!asUnsigned(a[7], 10e6, &forUs)) return -EINVAL;
  return io(c, a, true, forUs);
}

int64_t callWritev(Context& c, const double* a) { return io(c, a, false, 0); }

// fd, first, count, bytes, offset, flags, headAt, headBytes
int64_t callReadvAfter(Context& c, const double* a) {
  int fd, flags;
  uint64_t from, left, bytes;
  if (!asInt(a[0], &fd) || fd < 0 || !asUnsigned(a[3], kMaxSafe - kMostHeadBytes, &bytes) ||
      !asUnsigned(a[4], kMaxSafe, &from) || !asInt(a[5], &flags) ||
      !asUnsigned(a[7], kMostHeadBytes, &left) || left < sizeof(uint32_t))
    return -EINVAL;
  uint8_t* head = arenaRange(c, a[6], left);
  if (head == nullptr) return -EFAULT;
  const bool logged = c.dirty != nullptr;
  c.iov.clear();
  c.ranges.clear();
  const int64_t room = gather(c, a[1], a[2], 0, a[3] + a[7], &c.iov, nullptr, logged ? &c.ranges : nullptr);
  if (room < 0) return room;
  if (static_cast<uint64_t>(room) != left + bytes) return -EINVAL;
  iovec pieces[kMostHeadBytes];
  size_t count = 0, used = 0;
  for (uint64_t wanted = left; wanted > 0;) {
    iovec& one = c.iov[used];
    const size_t part = std::min<size_t>(one.iov_len, wanted);
    pieces[count++] = {one.iov_base, part};
    one.iov_base = static_cast<uint8_t*>(one.iov_base) + part;
    one.iov_len -= part;
    if (one.iov_len == 0) used++;
    wanted -= part;
  }
  c.iov.erase(c.iov.begin(), c.iov.begin() + static_cast<std::ptrdiff_t>(used));
  const int64_t moved = transfer(true, fd, c.iov, static_cast<int64_t>(from), flags, c.pool->stop);
  if (moved < 0) return moved;
  const uint32_t total = static_cast<uint32_t>(static_cast<int64_t>(left) + moved);
  memcpy(head, &total, sizeof total);
  for (size_t i = 0; i < count; head += pieces[i].iov_len, i++) memcpy(pieces[i].iov_base, head, pieces[i].iov_len);
  if (logged) markRanges(*c.dirty, c.ranges, total);
  return moved;
}

// a[0..6] the call's arguments, a[7] the call, a[8] the token
int64_t callSubmit(Context& c, const double* a) {
  int call, token;
  if (!asInt(a[7], &call) || call < 0 || call >= kPoolCalls || !asInt(a[8], &token) || token < 0) return -EINVAL;
  Pool& pool = *c.pool;
  if (pool.inFlight >= kMaxJobs) return -EAGAIN;
  std::unique_ptr<Job> job = takeSpare(pool);
  job->call = call;
  job->token = token;
  job->came = 0;
  std::copy(a, a + 7, job->args);
  job->iov.clear();
  job->held.clear();
  job->ranges.clear();
  int64_t fault = 0;
  if (reads(call) || call == kWritev) {
    int fd, flags;
    int64_t offset;
    if (!ioArguments(a, &fd, &offset, &flags))
      fault = -EINVAL;
    else
      // Writes may be logged by the time the job is done, though they are not now.
      fault = std::min<int64_t>(
          gather(c, a[1], a[2], a[3], a[4], &job->iov, &job->held, reads(call) ? &job->ranges : nullptr), 0);
  }
  if (fault < 0) {
    job->held.clear();
    pool.spare.push_back(std::move(job));
    return fault;
  }
  noteUse(pool, *job);
  std::unique_lock<std::mutex> lock(pool.mutex);
  job->order = pool.submitted++;
  std::deque<std::unique_ptr<Job>>& queue = call == kReadBegun ? pool.begun : pool.waiting;
  const size_t before = claimed(pool);
  if (call == kReadBegun) job->since = std::chrono::steady_clock::now();
  queue.push_back(std::move(job));
  const size_t now = claimed(pool);
  // The device thread takes a begun read when it has come, or wakes a thread for it before it sleeps. Not claimed:
  // the threads that are at such reads will get to it.
  const bool wakes = now > before && call != kReadBegun;
  if (pool.threads.empty() || (wakes && pool.idle < now && pool.threads.size() < pool.limit)) {
    const int refused = startWorker(c.pool);
    if (refused < 0 && pool.threads.empty()) {
      job = std::move(queue.back());
      queue.pop_back();
      noteEnd(pool, *job);
      job->held.clear();
      pool.spare.push_back(std::move(job));
      return refused;
    }
  }
  countJobs(c, 1);
  lock.unlock();
  if (wakes) pool.wake.notify_one();
  return 0;
}

// As submit, of calls without guest memory, on a thread of its own.
int64_t callSubmitAlone(Context& c, const double* a) {
  int call, token;
  if (!asInt(a[7], &call) || (call != kFlock && call != kOfdLock) || !asInt(a[8], &token) || token < 0) return -EINVAL;
  Pool& pool = *c.pool;
  auto own = std::make_unique<Lone>();
  own->pool = c.pool;
  std::lock_guard<std::mutex> lock(pool.mutex);
  if (pool.inFlight >= kMaxJobs || pool.lone.size() >= kMaxLone) return -EAGAIN;
  own->job = takeSpare(pool);
  Job& job = *own->job;
  job.call = call;
  job.token = token;
  std::copy(a, a + 7, job.args);
  job.iov.clear();
  job.held.clear();
  job.ranges.clear();
  const int refused = startThread(&own->thread, workAlone, own.get());
  if (refused < 0) {
    pool.spare.push_back(std::move(own->job));
    return refused;
  }
  countJobs(c, 1);
  noteUse(pool, job);
  pool.lone.push_back(own.release());
  return 0;
}

// A signal that comes just before the call begins is lost: so it is sent again until the job has ended.
// a[0] the token, a[1] for how many milliseconds
int64_t callInterrupt(Context& c, const double* a) {
  int token, rounds;
  if (!asInt(a[0], &token) || !asInt(a[1], &rounds)) return -EINVAL;
  Pool& pool = *c.pool;
  std::unique_lock<std::mutex> lock(pool.mutex);
  for (int round = 0; round <= rounds; round++) {
    const auto found =
        std::find_if(pool.lone.begin(), pool.lone.end(), [&](const Lone* one) {
          return one->job != nullptr && one->job->token == token;  // null: handed in, its thread is on its way out
        });
    if (found == pool.lone.end()) return 0;
    (*found)->interrupted = true;
    pthread_kill((*found)->thread, wakeSignal());
    if (round < rounds) pool.ended.wait_for(lock, kInterruptRound);
  }
  return -EAGAIN;
}

int helpBegunReads(Context& c) {
  Pool& pool = *c.pool;
  if (pool.inFlight == 0) return -1;
  std::unique_lock<std::mutex> lock(pool.mutex);
  if (pool.begun.empty()) return -1;
  const auto waited = std::chrono::steady_clock::now() - pool.begun.front()->since;
  if (waited >= std::chrono::milliseconds(kBegunPatienceMs) && pool.begunLimit < pool.limit) pool.begunLimit++;
  if (begunRoom(pool) == 0) return kBegunPatienceMs;
  if (pool.idle < claimed(pool) && pool.threads.size() < pool.limit) startWorker(c.pool);
  lock.unlock();
  pool.wake.notify_one();
  return kBegunPatienceMs;
}

namespace {

// The oldest read of `begun`, if all of it has come.
std::unique_ptr<Job> takeCollected(Pool& pool) {
  if (pool.inFlight == 0) return nullptr;
  std::unique_lock<std::mutex> lock(pool.mutex);
  if (pool.begun.empty()) return nullptr;
  std::unique_ptr<Job> job = std::move(pool.begun.front());
  pool.begun.pop_front();
  lock.unlock();
  if (collect(*job, pool.stop)) {
    job->held.clear();
    return job;
  }
  lock.lock();
  pool.begun.push_front(std::move(job));
  return nullptr;
}

// A finished job, or none.
std::unique_ptr<Job> takeFinished(Pool& pool) {
  if (pool.reapedCount == pool.reaped.size()) {
    if (pool.doneCount.load(std::memory_order_acquire) == 0) return takeCollected(pool);
    pool.reaped.clear();
    pool.reapedCount = 0;
    std::lock_guard<std::mutex> lock(pool.mutex);
    pool.reaped.swap(pool.done);
    pool.doneCount.store(0, std::memory_order_seq_cst);
  }
  return std::move(pool.reaped[pool.reapedCount++]);
}

}  // namespace

// The token, or -1; the result goes to mail[1].
int64_t callReap(Context& c, const double*) {
  Pool& pool = *c.pool;
  std::unique_ptr<Job> job = takeFinished(pool);
  if (job == nullptr) return -1;
  countJobs(c, -1);
  noteEnd(pool, *job);
  if (c.dirty != nullptr && reads(job->call)) markRanges(*c.dirty, job->ranges, job->result);
  c.mail[1] = static_cast<double>(job->result);
  const int32_t token = job->token;
  pool.spare.push_back(std::move(job));
  return token;
}

// What was submitted is done first, unless it takes longer than the limit. A thread that hangs in the
// kernel is woken by a signal; one that does not even heed that (a dead network file system) is left
// behind: it holds the pool and the memory its job works on until it comes back or the process ends.
void stopPool(Context& c) {
  Pool& pool = *c.pool;
  std::unique_lock<std::mutex> lock(pool.mutex);
  pool.stop = true;
  pool.wake.notify_all();
  const auto start = std::chrono::steady_clock::now();
  while (!(pool.threads.empty() && pool.lone.empty()) && std::chrono::steady_clock::now() - start < kStopLimit) {
    for (const Lone* one : pool.lone) pthread_kill(one->thread, wakeSignal());
    if (std::chrono::steady_clock::now() - start > kPatience)
      for (pthread_t thread : pool.threads) pthread_kill(thread, wakeSignal());
    pool.ended.wait_for(lock, kStopRound);
  }
  if (!pool.threads.empty() || !pool.lone.empty()) {
    // Descriptors may mean something else by the time the thread is back: nothing more is begun.
    pool.waiting.clear();
    pool.begun.clear();
    return;
  }
  for (int fd : pool.closing) close(fd);
  pool.closing.clear();
  close(pool.doneEvent);
  pool.doneEvent = -1;
}

bool closeLater(Context& c, int fd) {
  Pool& pool = *c.pool;
  if (std::find(pool.uses.begin(), pool.uses.end(), fd) == pool.uses.end()) return false;
  pool.closing.push_back(fd);
  return true;
}

}  // namespace vfsd
