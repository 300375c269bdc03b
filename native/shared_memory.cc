// Files that several processes map and JavaScript works on with Atomics. Whoever else may write to the
// file may also cut it short: the mapping is guarded (see memory_guard.cc). Context's thread only.
#include "context.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

namespace vfsd {

namespace {

int mapFile(int fd, uint64_t bytes, SharedView* view) {
  struct stat info;
  if (fstat(fd, &info) != 0) return -errno;
  if (!S_ISREG(info.st_mode) || bytes == 0) return -EINVAL;
  if (static_cast<uint64_t>(info.st_size) < bytes) return -EOVERFLOW;
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return -errno;
  view->mapping = std::make_shared<Mapping>();
  view->mapping->base = static_cast<uint8_t*>(at);
  view->mapping->mapped = bytes;
  view->mapping->guard = guardMapping(view->mapping->base, bytes);
  return view->mapping->guard < 0 ? -ENOSPC : 0;
}

// fd, bytes: an ArrayBuffer, or -errno
napi_value mapShared(napi_env env, napi_callback_info info) {
  napi_value args[2];
  void* data;
  int fd;
  double wide;
  if (arguments(env, info, args, 2, &data) < 2 || !toInt(env, args[0], &fd) || !toDouble(env, args[1], &wide))
    return typeError(env, "mapShared: a descriptor and a number");
  Context& c = *static_cast<Context*>(data);
  if (c.disposed) return number(env, -EBADF);
  uint64_t bytes;
  if (!asUnsigned(wide, 4294967295.0, &bytes)) return number(env, -EINVAL);
  SharedView view;
  const int fault = mapFile(fd, bytes, &view);
  if (fault < 0) return number(env, fault);
  napi_value buffer;
  if (napi_create_external_arraybuffer(env, view.mapping->base, bytes, nullptr, nullptr, &buffer) != napi_ok)
    return number(env, -ENOMEM);
  napi_create_reference(env, buffer, 1, &view.reference);
  c.sharedViews.push_back(std::move(view));
  return buffer;
}

}  // namespace

void dropSharedMemory(Context& c) {
  for (SharedView& view : c.sharedViews) {
    if (c.env == nullptr) continue;
    napi_handle_scope scope;
    napi_open_handle_scope(c.env, &scope);
    napi_value buffer;
    if (napi_get_reference_value(c.env, view.reference, &buffer) == napi_ok && buffer != nullptr)
      napi_detach_arraybuffer(c.env, buffer);
    napi_delete_reference(c.env, view.reference);
    napi_close_handle_scope(c.env, scope);
  }
  c.sharedViews.clear();
}

void defineSharedMemory(napi_env env, napi_value object, Context* c) {
  defineFunction(env, object, "mapShared", mapShared, c);
}

}  // namespace vfsd
