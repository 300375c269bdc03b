// What the daemon's main thread needs of the process: log lines that never block, the lock of the pid
// file, names of groups. Any thread; descriptors are the caller's.
#include "context.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <vector>

namespace vfsd {

namespace {

// One write that does not wait, whatever the descriptor is and without touching its O_NONBLOCK flag: that
// belongs to the open file, which others (a shell, a launcher) share.
ssize_t writeWithoutWaiting(int fd, const char* from, size_t bytes) {
  ssize_t done;
  do done = send(fd, from, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (done < 0 && errno == EINTR);
  if (done >= 0 || errno != ENOTSOCK) return done;
  iovec iov = {const_cast<char*>(from), bytes};
  do done = pwritev2(fd, &iov, 1, -1, RWF_NOWAIT);
  while (done < 0 && errno == EINTR);
  if (done >= 0 || errno == EPIPE || errno == EBADF) return done;
  // Files, terminals, and pipes of older kernels do not know RWF_NOWAIT. A pipe that is ready takes
  // PIPE_BUF bytes at once.
  pollfd out = {fd, POLLOUT, 0};
  if (poll(&out, 1, 0) <= 0 || (out.revents & POLLOUT) == 0) {
    errno = (out.revents & (POLLERR | POLLHUP)) != 0 ? EPIPE : EAGAIN;
    return -1;
  }
  do done = write(fd, from, bytes < PIPE_BUF ? bytes : PIPE_BUF);
  while (done < 0 && errno == EINTR);
  return done;
}

napi_value writeNow(napi_env env, napi_callback_info info) {
  napi_value args[2];
  int fd;
  std::string line;
  if (arguments(env, info, args, 2, nullptr) < 2 || !toInt(env, args[0], &fd) || !toText(env, args[1], &line))
    return typeError(env, "writeNow: a descriptor and a text");
  size_t written = 0;
  while (written < line.size()) {
    const ssize_t now = writeWithoutWaiting(fd, line.data() + written, line.size() - written);
    if (now <= 0) return number(env, written > 0 ? static_cast<double>(written) : now < 0 ? -errno : -EIO);
    written += static_cast<size_t>(now);
  }
  return number(env, static_cast<double>(written));
}

napi_value lockFile(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int fd;
  if (arguments(env, info, args, 1, nullptr) < 1 || !toInt(env, args[0], &fd))
    return typeError(env, "lockFile: a descriptor");
  return number(env, flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : -errno);
}

napi_value groupId(napi_env env, napi_callback_info info) {
  napi_value args[1];
  std::string name;
  if (arguments(env, info, args, 1, nullptr) < 1 || !toText(env, args[0], &name))
    return typeError(env, "groupId: a name");
  std::vector<char> strings(1024);
  for (;;) {
    group entry;
    group* found = nullptr;
    const int fault = getgrnam_r(name.c_str(), &entry, strings.data(), strings.size(), &found);
    if (fault == EINTR) continue;
    if (fault == ERANGE && strings.size() < (1u << 24)) {
      strings.resize(strings.size() * 4);
      continue;
    }
    if (found == nullptr) return number(env, fault != 0 ? -fault : -ENOENT);
    return number(env, found->gr_gid);
  }
}

}  // namespace

void defineModuleProcess(napi_env env, napi_value exports) {
  defineFunction(env, exports, "writeNow", writeNow, nullptr);
  defineFunction(env, exports, "lockFile", lockFile, nullptr);
  defineFunction(env, exports, "groupId", groupId, nullptr);
}

}  // namespace vfsd
