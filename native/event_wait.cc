// Waiting: spin on ring indices and finished jobs, then block in epoll. And the two ways to signal a
// call descriptor. Context's thread only.
#include "context.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cstring>

namespace vfsd {

namespace {

constexpr int kDrainRounds = 16;

void pauseCpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether a watched ring has moved past what JavaScript took, or a job is finished.
bool workWaits(Context& c) {
  if (c.pool->doneCount.load(std::memory_order_acquire) != 0 || c.pool->reapedCount != c.pool->reaped.size()) return true;
  for (int i = 0; i < kMaxRings; i++) {
    const uint16_t* index = c.availIndex[i];
    if (index == nullptr || c.lastAvail[i] < 0) continue;
    const uint16_t now = __atomic_load_n(index, __ATOMIC_ACQUIRE);
    if (now != static_cast<uint16_t>(c.lastAvail[i])) return true;
  }
  return false;
}

// Reads and drops what a pipe or socket holds. False at its end. Who writes faster than this reads
// cannot keep us here: what is left makes the descriptor ready again.
bool drain(int fd) {
  char sink[4096];
  for (int round = 0; round < kDrainRounds; round++) {
    pollfd one = {fd, POLLIN, 0};
    if (poll(&one, 1, 0) <= 0) return true;
    if ((one.revents & POLLIN) == 0) return (one.revents & (POLLHUP | POLLERR)) == 0;
    const ssize_t got = read(fd, sink, sizeof sink);
    if (got == 0) return false;
    if (got < 0) return errno == EAGAIN || errno == EINTR;
  }
  return true;
}

napi_value watchFd(napi_env env, napi_callback_info info) {
  napi_value args[4];
  void* data;
  const size_t given = arguments(env, info, args, 4, &data);
  if (given < 3) return typeError(env, "watchFd: three arguments");
  Context& c = *static_cast<Context*>(data);
  int fd, token;
  bool wantsDrain = false, forWriting = false;
  if (!toInt(env, args[0], &fd) || !toInt(env, args[1], &token) || token < 0 ||
      napi_get_value_bool(env, args[2], &wantsDrain) != napi_ok)
    return typeError(env, "watchFd: a descriptor, a token and a boolean");
  if (given == 4 && napi_get_value_bool(env, args[3], &forWriting) != napi_ok)
    return typeError(env, "watchFd: the fourth argument is a boolean");
  if (c.disposed) return number(env, -EBADF);
  Watched entry;
  entry.token = token;
  entry.edge = signalKind(fd) == kEventFd;
  entry.drain = wantsDrain && !entry.edge;
  epoll_event event = {};
  event.events = entry.edge ? (EPOLLIN | EPOLLET) : forWriting ? EPOLLOUT : EPOLLIN;
  event.data.fd = fd;
  if (epoll_ctl(c.epoll, EPOLL_CTL_ADD, fd, &event) != 0) return number(env, -errno);
  c.watched[fd] = entry;
  return number(env, 0);
}

napi_value unwatchFd(napi_env env, napi_callback_info info) {
  napi_value args[1];
  void* data;
  int fd;
  if (arguments(env, info, args, 1, &data) < 1 || !toInt(env, args[0], &fd))
    return typeError(env, "unwatchFd: a descriptor");
  Context& c = *static_cast<Context*>(data);
  if (c.disposed) return number(env, -EBADF);
  if (c.watched.erase(fd) == 0) return number(env, -ENOENT);
  if (c.epoll >= 0) epoll_ctl(c.epoll, EPOLL_CTL_DEL, fd, nullptr);
  return number(env, 0);
}

}  // namespace

int64_t microseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000 + now.tv_nsec / 1000;
}

bool spin(Context& c, int64_t until) {
  for (;;) {
    for (int i = 0; i < 64; i++) {
      if (workWaits(c)) return true;
      pauseCpu();
    }
    if (microseconds() >= until) return false;
  }
}

// By the type of its inode: an eventfd is an anonymous one, of no type. (Names under /proc/self/fd would
// say more, but there is no /proc in a sandbox. Another anonymous kind, which only a hostile front end
// sends, fails its own ring and nothing else.)
int signalKind(int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) return kOther;
  if ((info.st_mode & S_IFMT) == 0) return kEventFd;
  return S_ISSOCK(info.st_mode) ? kSocket : kOther;
}

int signalFd(int fd, int kind) {
  const uint64_t one = 1;
  for (;;) {
    ssize_t sent;
    if (kind == kSocket) {
      sent = send(fd, &one, sizeof one, MSG_DONTWAIT | MSG_NOSIGNAL);
    } else {
      if (kind != kEventFd) {
        // A pipe: room for the eight bytes is asked for first, so that the write cannot block.
        pollfd out = {fd, POLLOUT, 0};
        if (poll(&out, 1, 0) == 0) return 0;
      }
      sent = write(fd, &one, sizeof one);
    }
    if (sent >= 0 || errno == EAGAIN) return 0;
    if (errno != EINTR) return -errno;
  }
}

int64_t callEventSignal(Context&, const double* a) {
  int fd, kind;
  if (!asInt(a[0], &fd) || fd < 0) return -EBADF;
  if (!asInt(a[1], &kind)) return -EINVAL;
  return signalFd(fd, kind);
}

int64_t callPreemptions(Context&, const double*) {
  rusage used;
  return getrusage(RUSAGE_THREAD, &used) == 0 ? used.ru_nivcsw : -errno;
}

int64_t callNowUs(Context&, const double*) { return microseconds(); }

int64_t callWait(Context& c, const double* a) {
  int timeoutMs;
  uint64_t spinUs;
  if (!asInt(a[0], &timeoutMs) || !asUnsigned(a[1], 10e6, &spinUs)) return -EINVAL;
  // Work in a ring or a finished job needs no look at the descriptors: the caller has them looked at
  // now and then while there is work.
  const bool mayBlock = timeoutMs != 0;
  const int64_t began = microseconds();
  c.mail[kMailWaitedUs] = static_cast<double>(began);
  c.mail[kMailSleptUs] = 0;
  if (spinUs > 0 && (spin(c, began + static_cast<int64_t>(spinUs)) || !mayBlock)) return 0;
  if (mayBlock) {
    // Announce the sleep, then look once more: a job that finishes now either sees the flag and
    // signals, or is seen here.
    c.pool->sleeping.store(true, std::memory_order_seq_cst);
    if (workWaits(c)) timeoutMs = 0;
  }
  const int helpMs = helpBegunReads(c);
  if (helpMs >= 0 && (timeoutMs < 0 || timeoutMs > helpMs)) timeoutMs = helpMs;
  epoll_event events[kMaxReady];
  const int64_t before = mayBlock ? microseconds() : 0;
  const int count = epoll_wait(c.epoll, events, kMaxReady, timeoutMs);
  if (mayBlock) {
    c.pool->sleeping.store(false, std::memory_order_seq_cst);
    const int64_t after = microseconds();
    c.mail[kMailSleptUs] = static_cast<double>(after - before);
    c.mail[kMailWaitedUs] = static_cast<double>(after);
  }
  if (count < 0) return errno == EINTR ? 0 : -errno;
  int ready = 0;
  for (int i = 0; i < count; i++) {
    const int fd = events[i].data.fd;
    if (fd == c.pool->doneEvent) continue;
    auto known = c.watched.find(fd);
    if (known == c.watched.end()) continue;
    c.ready[ready++] = static_cast<int32_t>(known->second.token);
    if (known->second.drain && !drain(fd)) {
      // Its other end is closed: it would be ready for ever.
      epoll_ctl(c.epoll, EPOLL_CTL_DEL, fd, nullptr);
      c.watched.erase(known);
    }
  }
  return ready;
}

void defineEventWait(napi_env env, napi_value object, Context* c) {
  defineFunction(env, object, "watchFd", watchFd, c);
  defineFunction(env, object, "unwatchFd", unwatchFd, c);
}

}  // namespace vfsd
