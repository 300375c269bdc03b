// inotify and fanotify: who else changes a file. Reading the events is the caller's. Context's thread only.
#include "context.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>

#ifndef FAN_REPORT_DFID_NAME_TARGET
#define FAN_REPORT_DFID_NAME_TARGET 0x1e00
#endif

namespace vfsd {

namespace {

// Through the link in /proc/self/fd, which is found where /proc is not.
struct FdPath {
  char text[40];
  FdPath(const Context& c, int fd) { snprintf(text, sizeof text, c.inProcFds ? "%d" : "/proc/self/fd/%d", fd); }
};

napi_value inotifyInit(napi_env env, napi_callback_info) {
  const int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  return number(env, fd >= 0 ? fd : -errno);
}

napi_value inotifyAdd(napi_env env, napi_callback_info info) {
  napi_value args[2];
  void* data;
  int watcher, fd;
  if (arguments(env, info, args, 2, &data) < 2 || !toInt(env, args[0], &watcher) || !toInt(env, args[1], &fd))
    return typeError(env, "inotifyAdd: two descriptors");
  const Context& c = *static_cast<Context*>(data);
  if (c.disposed) return number(env, -EBADF);
  const int id = inotify_add_watch(watcher, FdPath(c, fd).text, IN_MODIFY);
  return number(env, id >= 0 ? id : -errno);
}

napi_value inotifyRemove(napi_env env, napi_callback_info info) {
  napi_value args[2];
  int watcher, id;
  if (arguments(env, info, args, 2, nullptr) < 2 || !toInt(env, args[0], &watcher) || !toInt(env, args[1], &id))
    return typeError(env, "inotifyRemove: a descriptor and a watch");
  return number(env, inotify_rm_watch(watcher, id) == 0 ? 0 : -errno);
}

// Marks of one inode each: such a group needs no privilege (Linux 5.13), and one with privilege any number of them. The
// queue keeps its limit: it is read only when somebody asks, and lies in the kernel's memory until then.
napi_value fanotifyInit(napi_env env, napi_callback_info) {
  const unsigned flags = FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_FID;
  int fd = fanotify_init(flags | FAN_UNLIMITED_MARKS, O_RDONLY);
  if (fd < 0 && errno == EPERM) fd = fanotify_init(flags, O_RDONLY);
  return number(env, fd >= 0 ? fd : -errno);
}

// Marks of directories whose events name the entry (Linux 5.17). The queue keeps its limit: who is slow is told.
napi_value fanotifyInitNamed(napi_env env, napi_callback_info) {
  const unsigned flags = FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_DFID_NAME_TARGET;
  int fd = fanotify_init(flags | FAN_UNLIMITED_MARKS, O_RDONLY);
  if (fd < 0 && errno == EPERM) fd = fanotify_init(flags, O_RDONLY);
  return number(env, fd >= 0 ? fd : -errno);
}

napi_value fanotifyMarkOpen(napi_env env, napi_callback_info info) {
  napi_value args[3];
  int group, fd, mask;
  if (arguments(env, info, args, 3, nullptr) < 3 || !toInt(env, args[0], &group) || !toInt(env, args[1], &fd) ||
      !toInt(env, args[2], &mask))
    return typeError(env, "fanotifyMarkOpen: two descriptors and a mask");
  const int answer = fanotify_mark(group, FAN_MARK_ADD, static_cast<uint64_t>(mask), fd, nullptr);
  return number(env, answer == 0 ? 0 : -errno);
}

napi_value fanotifyMark(napi_env env, napi_callback_info info) {
  napi_value args[4];
  void* data;
  int group, fd, mask;
  bool add;
  if (arguments(env, info, args, 4, &data) < 4 || !toInt(env, args[0], &group) || !toInt(env, args[1], &fd) ||
      !toInt(env, args[2], &mask) || napi_get_value_bool(env, args[3], &add) != napi_ok)
    return typeError(env, "fanotifyMark: two descriptors, a mask and a boolean");
  const Context& c = *static_cast<Context*>(data);
  if (c.disposed) return number(env, -EBADF);
  const unsigned flags = add ? FAN_MARK_ADD : FAN_MARK_REMOVE;
  const int answer = fanotify_mark(group, flags, static_cast<uint64_t>(mask), AT_FDCWD, FdPath(c, fd).text);
  return number(env, answer == 0 ? 0 : -errno);
}

napi_value fanotifyClear(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int group;
  if (arguments(env, info, args, 1, nullptr) < 1 || !toInt(env, args[0], &group))
    return typeError(env, "fanotifyClear: a descriptor");
  return number(env, fanotify_mark(group, FAN_MARK_FLUSH, 0, AT_FDCWD, nullptr) == 0 ? 0 : -errno);
}

}  // namespace

int64_t callPollNow(Context& c, const double* a) {
  pollfd fds[2] = {{-1, POLLIN, 0}, {-1, POLLPRI, 0}};
  if (!asInt(a[0], &fds[0].fd) || !asInt(a[1], &fds[1].fd)) return -EBADF;
  c.mail[kMailPolledUs] = static_cast<double>(microseconds());
  const int count = poll(fds, 2, 0);
  if (count < 0) return -errno;
  return (fds[0].revents != 0 ? 1 : 0) | (fds[1].revents != 0 ? 2 : 0);
}

void defineFileWatch(napi_env env, napi_value object, Context* c) {
  defineFunction(env, object, "inotifyInit", inotifyInit, c);
  defineFunction(env, object, "inotifyAdd", inotifyAdd, c);
  defineFunction(env, object, "inotifyRemove", inotifyRemove, c);
  defineFunction(env, object, "fanotifyInit", fanotifyInit, c);
  defineFunction(env, object, "fanotifyInitNamed", fanotifyInitNamed, c);
  defineFunction(env, object, "fanotifyMark", fanotifyMark, c);
  defineFunction(env, object, "fanotifyMarkOpen", fanotifyMarkOpen, c);
  defineFunction(env, object, "fanotifyClear", fanotifyClear, c);
}

}  // namespace vfsd
