// Files mapped for reading, so that a small read is a copy and no system call. A file that somebody cuts short
// meanwhile tears its mapping (memory_guard.cc): the copy then fails. Context's thread only.
#include "context.h"

#include <errno.h>
#include <sys/mman.h>

#include <cstring>

namespace vfsd {

namespace {

constexpr size_t kMaxFileMaps = 1024;

napi_value mapFile(napi_env env, napi_callback_info info) {
  napi_value args[2];
  void* data;
  int fd;
  double wide;
  uint64_t bytes;
  if (arguments(env, info, args, 2, &data) < 2 || !toInt(env, args[0], &fd) || !toDouble(env, args[1], &wide))
    return typeError(env, "mapFile: a descriptor and a number");
  Context& c = *static_cast<Context*>(data);
  if (c.disposed) return number(env, -EBADF);
  if (!asUnsigned(wide, kMaxSafe, &bytes) || bytes == 0) return number(env, -EINVAL);
  size_t id = 0;
  while (id < c.fileMaps.size() && c.fileMaps[id] != nullptr) id++;
  if (id >= kMaxFileMaps) return number(env, -ENOSPC);
  void* at = mmap(nullptr, bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (at == MAP_FAILED) return number(env, -errno);
  madvise(at, bytes, MADV_DONTDUMP);
  auto mapping = std::make_unique<Mapping>();
  mapping->base = static_cast<uint8_t*>(at);
  mapping->mapped = bytes;
  mapping->guard = guardMapping(mapping->base, bytes);
  if (mapping->guard < 0) return number(env, -ENOSPC);
  if (id == c.fileMaps.size()) c.fileMaps.emplace_back();
  c.fileMaps[id] = std::move(mapping);
  return number(env, static_cast<double>(id));
}

napi_value unmapFile(napi_env env, napi_callback_info info) {
  napi_value args[1];
  void* data;
  int id;
  if (arguments(env, info, args, 1, &data) < 1 || !toInt(env, args[0], &id))
    return typeError(env, "unmapFile: a number");
  Context& c = *static_cast<Context*>(data);
  if (c.disposed) return number(env, -EBADF);
  if (id < 0 || static_cast<size_t>(id) >= c.fileMaps.size() || c.fileMaps[static_cast<size_t>(id)] == nullptr)
    return number(env, -ENOENT);
  c.fileMaps[static_cast<size_t>(id)].reset();
  return number(env, 0);
}

}  // namespace

// id, first, count, skip, bytes, offset
int64_t callReadMapped(Context& c, const double* a) {
  uint64_t id, offset;
  if (!asUnsigned(a[0], kMaxSafe, &id)) return -EINVAL;
  if (id >= c.fileMaps.size() || c.fileMaps[id] == nullptr) return -ENOENT;
  const Mapping& file = *c.fileMaps[id];
  if (!asUnsigned(a[5], kMaxSafe, &offset) || offset >= file.mapped) return -EINVAL;
  const bool logged = c.dirty != nullptr;
  c.iov.clear();
  c.ranges.clear();
  const int64_t bytes = gather(c, a[1], a[2], a[3], a[4], &c.iov, nullptr, logged ? &c.ranges : nullptr);
  if (bytes < 0) return bytes;
  if (static_cast<uint64_t>(bytes) > file.mapped - offset) return -EINVAL;
  const uint8_t* from = file.base + offset;
  for (const iovec& piece : c.iov) {
    memcpy(piece.iov_base, from, piece.iov_len);
    from += piece.iov_len;
  }
  if (logged) markRanges(*c.dirty, c.ranges, bytes);
  return isTorn(file.guard) ? -EIO : bytes;
}

void defineFileMap(napi_env env, napi_value object, Context* c) {
  defineFunction(env, object, "mapFile", mapFile, c);
  defineFunction(env, object, "unmapFile", unmapFile, c);
}

}  // namespace vfsd
