// inotify: who else changes a file that is mapped. Reading the events is the caller's. Context's thread only.
#include "context.h"

#include <errno.h>
#include <stdio.h>
#include <sys/inotify.h>

namespace vfsd {

namespace {

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
  // Through the link in /proc/self/fd, which is found where /proc is not.
  char path[40];
  snprintf(path, sizeof path, c.inProcFds ? "%d" : "/proc/self/fd/%d", fd);
  const int id = inotify_add_watch(watcher, path, IN_MODIFY);
  return number(env, id >= 0 ? id : -errno);
}

napi_value inotifyRemove(napi_env env, napi_callback_info info) {
  napi_value args[2];
  int watcher, id;
  if (arguments(env, info, args, 2, nullptr) < 2 || !toInt(env, args[0], &watcher) || !toInt(env, args[1], &id))
    return typeError(env, "inotifyRemove: a descriptor and a watch");
  return number(env, inotify_rm_watch(watcher, id) == 0 ? 0 : -errno);
}

}  // namespace

void defineFileWatch(napi_env env, napi_value object, Context* c) {
  defineFunction(env, object, "inotifyInit", inotifyInit, c);
  defineFunction(env, object, "inotifyAdd", inotifyAdd, c);
  defineFunction(env, object, "inotifyRemove", inotifyRemove, c);
}

}  // namespace vfsd
