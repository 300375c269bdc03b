// UNIX stream sockets with descriptors (SCM_RIGHTS), and the small descriptors of a session: eventfds
// and memory files. Any thread; descriptors are the caller's.
#include "context.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmath>
#include <cstddef>
#include <cstring>

namespace vfsd {

namespace {

constexpr int kSendLimitMs = 5000;

int64_t milliseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000 + now.tv_nsec / 1000000;
}

int address(const std::string& path, sockaddr_un* out, socklen_t* length) {
  if (path.empty()) return -ENOENT;
  if (path.size() >= sizeof out->sun_path) return -ENAMETOOLONG;
  if (path.find('\0') != std::string::npos) return -EINVAL;
  memset(out, 0, sizeof *out);
  out->sun_family = AF_UNIX;
  memcpy(out->sun_path, path.data(), path.size());
  *length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  return 0;
}

// Data and length of an Int32Array or Float64Array argument.
bool typedArray(napi_env env, napi_value value, napi_typedarray_type want, size_t least, void** at) {
  bool is = false;
  napi_typedarray_type type;
  size_t length = 0;
  return napi_is_typedarray(env, value, &is) == napi_ok && is &&
         napi_get_typedarray_info(env, value, &type, &length, at, nullptr, nullptr) == napi_ok && type == want &&
         length >= least;
}

napi_value receive(napi_env env, napi_callback_info info) {
  napi_value args[4];
  void* data;
  if (arguments(env, info, args, 4, &data) < 4) return typeError(env, "receive: four arguments");
  Context& c = *static_cast<Context*>(data);
  int fd;
  double at, wideBytes;
  void* result;
  if (!toInt(env, args[0], &fd) || !toDouble(env, args[1], &at) || !toDouble(env, args[2], &wideBytes) ||
      !typedArray(env, args[3], napi_int32_array, 2, &result))
    return typeError(env, "receive: a descriptor, an offset, a count and an Int32Array(2)");
  int32_t* extra = static_cast<int32_t*>(result);
  extra[0] = extra[1] = 0;
  if (c.disposed) return number(env, -EBADF);
  uint64_t bytes;
  if (!asUnsigned(wideBytes, static_cast<double>(c.arenaBytes), &bytes)) return number(env, -EINVAL);
  uint8_t* into = arenaRange(c, at, bytes);
  if (into == nullptr) return number(env, -EFAULT);

  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxMessageFds)];
  iovec iov = {into, bytes};
  msghdr message = {};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got;
  do got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  while (got < 0 && errno == EINTR);
  if (got < 0) return number(env, -errno);
  int count = 0;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t n = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < n; i++) {
      int received;
      memcpy(&received, CMSG_DATA(part) + i * sizeof(int), sizeof received);
      if (count < kMaxMessageFds)
        c.fds[count++] = received;
      else
        close(received);
    }
  }
  extra[0] = count;
  extra[1] = (message.msg_flags & MSG_CTRUNC) != 0 ? 1 : 0;
  return number(env, static_cast<double>(got));
}

int64_t sendAll(int fd, const uint8_t* from, size_t bytes, const int32_t* fds, int fdCount) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxMessageFds)] = {0};
  // One limit for the whole message: a peer that takes a byte now and then does not hold us longer.
  const int64_t until = milliseconds() + kSendLimitMs;
  size_t sent = 0;
  while (sent < bytes) {
    iovec iov = {const_cast<uint8_t*>(from) + sent, bytes - sent};
    msghdr message = {};
    message.msg_iov = &iov;
    message.msg_iovlen = 1;
    if (sent == 0 && fdCount > 0) {
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(sizeof(int) * static_cast<size_t>(fdCount));
      cmsghdr* part = CMSG_FIRSTHDR(&message);
      part->cmsg_level = SOL_SOCKET;
      part->cmsg_type = SCM_RIGHTS;
      part->cmsg_len = CMSG_LEN(sizeof(int) * static_cast<size_t>(fdCount));
      memcpy(CMSG_DATA(part), fds, sizeof(int) * static_cast<size_t>(fdCount));
    }
    const ssize_t now = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (now >= 0) {
      sent += static_cast<size_t>(now);
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return -errno;
    const int64_t left = until - milliseconds();
    pollfd out = {fd, POLLOUT, 0};
    if (left <= 0 || poll(&out, 1, static_cast<int>(left)) == 0) return -ETIMEDOUT;
  }
  return static_cast<int64_t>(sent);
}

napi_value sendMessage(napi_env env, napi_callback_info info) {
  napi_value args[4];
  void* data;
  if (arguments(env, info, args, 4, &data) < 4) return typeError(env, "send: four arguments");
  Context& c = *static_cast<Context*>(data);
  int fd, fdCount;
  double at, wideBytes;
  if (!toInt(env, args[0], &fd) || !toDouble(env, args[1], &at) || !toDouble(env, args[2], &wideBytes) ||
      !toInt(env, args[3], &fdCount))
    return typeError(env, "send: a descriptor, an offset and two counts");
  if (c.disposed) return number(env, -EBADF);
  uint64_t bytes;
  if (!asUnsigned(wideBytes, static_cast<double>(c.arenaBytes), &bytes) || fdCount < 0 || fdCount > kMaxMessageFds)
    return number(env, -EINVAL);
  const uint8_t* from = arenaRange(c, at, bytes);
  if (from == nullptr) return number(env, -EFAULT);
  return number(env, static_cast<double>(sendAll(fd, from, bytes, c.fds, fdCount)));
}

napi_value unixListen(napi_env env, napi_callback_info info) {
  napi_value args[2];
  std::string path;
  int backlog;
  if (arguments(env, info, args, 2, nullptr) < 2 || !toText(env, args[0], &path) || !toInt(env, args[1], &backlog))
    return typeError(env, "unixListen: a path and a number");
  sockaddr_un at;
  socklen_t length;
  const int fault = address(path, &at, &length);
  if (fault != 0) return number(env, fault);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return number(env, -errno);
  if (bind(fd, reinterpret_cast<sockaddr*>(&at), length) != 0 || listen(fd, backlog) != 0) {
    const int code = errno;
    close(fd);
    return number(env, -code);
  }
  return number(env, fd);
}

napi_value unixAccept(napi_env env, napi_callback_info info) {
  napi_value args[2];
  int listener, timeoutMs;
  if (arguments(env, info, args, 2, nullptr) < 2 || !toInt(env, args[0], &listener) || !toInt(env, args[1], &timeoutMs))
    return typeError(env, "unixAccept: a descriptor and a time");
  for (;;) {
    pollfd in = {listener, POLLIN, 0};
    const int ready = poll(&in, 1, timeoutMs);
    if (ready == 0) return number(env, -ETIMEDOUT);
    if (ready < 0 && errno != EINTR) return number(env, -errno);
    if (ready < 0) continue;
    const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd >= 0) return number(env, fd);
    if (errno != EINTR && errno != ECONNABORTED) return number(env, -errno);
  }
}

int connectTo(const std::string& path, int type) {
  sockaddr_un at;
  socklen_t length;
  const int fault = address(path, &at, &length);
  if (fault != 0) return fault;
  const int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  if (connect(fd, reinterpret_cast<sockaddr*>(&at), length) == 0) return fd;
  const int code = errno;
  close(fd);
  return -code;
}

napi_value unixConnect(napi_env env, napi_callback_info info) {
  napi_value args[1];
  std::string path;
  if (arguments(env, info, args, 1, nullptr) < 1 || !toText(env, args[0], &path))
    return typeError(env, "unixConnect: a path");
  return number(env, connectTo(path, SOCK_STREAM));
}

napi_value unixDatagram(napi_env env, napi_callback_info info) {
  napi_value args[1];
  std::string path;
  if (arguments(env, info, args, 1, nullptr) < 1 || !toText(env, args[0], &path))
    return typeError(env, "unixDatagram: a path");
  return number(env, connectTo(path, SOCK_DGRAM));
}

napi_value checkListener(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int fd;
  if (arguments(env, info, args, 1, nullptr) < 1 || !toInt(env, args[0], &fd))
    return typeError(env, "checkListener: a descriptor");
  int domain = 0, type = 0, listening = 0;
  socklen_t size = sizeof(int);
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0) return number(env, -errno);
  size = sizeof(int);
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0) return number(env, -errno);
  size = sizeof(int);
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0) return number(env, -errno);
  return number(env, domain == AF_UNIX && type == SOCK_STREAM && listening != 0 ? 0 : -EINVAL);
}

napi_value socketPair(napi_env env, napi_callback_info info) {
  napi_value args[1];
  void* out;
  if (arguments(env, info, args, 1, nullptr) < 1 || !typedArray(env, args[0], napi_int32_array, 2, &out))
    return typeError(env, "socketPair: an Int32Array(2)");
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return number(env, -errno);
  static_cast<int32_t*>(out)[0] = pair[0];
  static_cast<int32_t*>(out)[1] = pair[1];
  return number(env, 0);
}

napi_value makeEventFd(napi_env env, napi_callback_info) {
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return number(env, fd >= 0 ? fd : -errno);
}

napi_value eventWrite(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int fd;
  if (arguments(env, info, args, 1, nullptr) < 1 || !toInt(env, args[0], &fd))
    return typeError(env, "eventWrite: a descriptor");
  return number(env, signalFd(fd, signalKind(fd)));
}

napi_value signalKindOf(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int fd;
  if (arguments(env, info, args, 1, nullptr) < 1 || !toInt(env, args[0], &fd))
    return typeError(env, "signalKind: a descriptor");
  return number(env, signalKind(fd));
}

napi_value eventRead(napi_env env, napi_callback_info info) {
  napi_value args[2];
  int fd, timeoutMs;
  if (arguments(env, info, args, 2, nullptr) < 2 || !toInt(env, args[0], &fd) || !toInt(env, args[1], &timeoutMs))
    return typeError(env, "eventRead: a descriptor and a time");
  pollfd in = {fd, POLLIN, 0};
  int ready;
  do ready = poll(&in, 1, timeoutMs);
  while (ready < 0 && errno == EINTR);
  if (ready == 0) return number(env, -EAGAIN);
  uint64_t value = 0;
  const ssize_t got = read(fd, &value, sizeof value);
  if (got < 0) return number(env, -errno);
  return number(env, got == sizeof value ? static_cast<double>(value) : -EPIPE);
}

napi_value makeMemfd(napi_env env, napi_callback_info info) {
  napi_value args[2];
  std::string name;
  double wide;
  uint64_t bytes;
  if (arguments(env, info, args, 2, nullptr) < 2 || !toText(env, args[0], &name) || !toDouble(env, args[1], &wide) ||
      !asUnsigned(wide, kMaxSafe, &bytes))
    return typeError(env, "memfd: a name and a size");
  const int fd = memfd_create(name.c_str(), MFD_CLOEXEC);
  if (fd < 0) return number(env, -errno);
  if (ftruncate(fd, static_cast<off_t>(bytes)) == 0) return number(env, fd);
  const int code = errno;
  close(fd);
  return number(env, -code);
}

napi_value setNonBlocking(napi_env env, napi_callback_info info) {
  napi_value args[2];
  int fd;
  bool on;
  if (arguments(env, info, args, 2, nullptr) < 2 || !toInt(env, args[0], &fd) ||
      napi_get_value_bool(env, args[1], &on) != napi_ok)
    return typeError(env, "setNonBlocking: a descriptor and a boolean");
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return number(env, -errno);
  return number(env, fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) == 0 ? 0 : -errno);
}

napi_value closeFd(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int fd;
  if (arguments(env, info, args, 1, nullptr) < 1 || !toInt(env, args[0], &fd))
    return typeError(env, "closeFd: a descriptor");
  return number(env, close(fd) == 0 ? 0 : -errno);
}

napi_value dupFd(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int fd;
  if (arguments(env, info, args, 1, nullptr) < 1 || !toInt(env, args[0], &fd))
    return typeError(env, "dupFd: a descriptor");
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  return number(env, copy >= 0 ? copy : -errno);
}

napi_value setProcessName(napi_env env, napi_callback_info info) {
  napi_value args[1];
  std::string name;
  if (arguments(env, info, args, 1, nullptr) < 1 || !toText(env, args[0], &name))
    return typeError(env, "setProcessName: a name");
  return number(env, prctl(PR_SET_NAME, name.c_str(), 0, 0, 0) == 0 ? 0 : -errno);
}

double limitNumber(rlim_t value) { return value == RLIM_INFINITY ? INFINITY : static_cast<double>(value); }

napi_value getNoFileLimit(napi_env env, napi_callback_info info) {
  napi_value args[1];
  void* out;
  if (arguments(env, info, args, 1, nullptr) < 1 || !typedArray(env, args[0], napi_float64_array, 2, &out))
    return typeError(env, "getNoFileLimit: a Float64Array(2)");
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return number(env, -errno);
  static_cast<double*>(out)[0] = limitNumber(limit.rlim_cur);
  static_cast<double*>(out)[1] = limitNumber(limit.rlim_max);
  return number(env, 0);
}

napi_value setNoFileLimit(napi_env env, napi_callback_info info) {
  napi_value args[2];
  double soft, hard;
  uint64_t softBytes, hardBytes;
  if (arguments(env, info, args, 2, nullptr) < 2 || !toDouble(env, args[0], &soft) || !toDouble(env, args[1], &hard) ||
      !asUnsigned(soft, kMaxSafe, &softBytes) || !asUnsigned(hard, kMaxSafe, &hardBytes))
    return typeError(env, "setNoFileLimit: two numbers");
  const rlimit limit = {softBytes, hardBytes};
  return number(env, setrlimit(RLIMIT_NOFILE, &limit) == 0 ? 0 : -errno);
}

napi_value exitNow(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int status = 1;
  if (arguments(env, info, args, 1, nullptr) >= 1) toInt(env, args[0], &status);
  _exit(status);
}

}  // namespace

void defineSocketCalls(napi_env env, napi_value object, Context* c) {
  defineFunction(env, object, "receive", receive, c);
  defineFunction(env, object, "send", sendMessage, c);
}

void defineModuleSockets(napi_env env, napi_value exports) {
  const struct {
    const char* name;
    napi_callback callback;
  } functions[] = {
      {"unixListen", unixListen},         {"unixAccept", unixAccept},
      {"unixConnect", unixConnect},       {"checkListener", checkListener},
      {"socketPair", socketPair},         {"eventFd", makeEventFd},
      {"eventWrite", eventWrite},         {"eventRead", eventRead},
      {"memfd", makeMemfd},               {"setNonBlocking", setNonBlocking},
      {"closeFd", closeFd},               {"dupFd", dupFd},
      {"setProcessName", setProcessName}, {"getNoFileLimit", getNoFileLimit},
      {"setNoFileLimit", setNoFileLimit}, {"signalKind", signalKindOf},
      {"exitNow", exitNow},               {"unixDatagram", unixDatagram},
  };
  for (const auto& function : functions) defineFunction(env, exports, function.name, function.callback, nullptr);
}

}  // namespace vfsd
