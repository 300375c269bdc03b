// The dirty log of a live migration: a bitmap in memory shared with the front end, one bit for each page
// of 4 KiB of guest memory, set after the page was written. Which writes are logged, and when, is not
// decided here. Context's thread only.
#include "context.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace vfsd {

namespace {

constexpr uint64_t kLogPage = 4096;

// The page was written before this, and the front end takes bits away before it reads the page: with
// both in order (fetch_or is a full barrier) no write is lost.
void markPages(DirtyLog& log, uint64_t guest, uint64_t bytes) {
  if (bytes == 0) return;
  const uint64_t pages = log.bytes * 8;
  uint64_t last = (guest + bytes - 1) / kLogPage;
  if (last >= pages || isTorn(log.mapping->guard)) {
    log.missed++;
    if (pages == 0) return;
    last = std::min(last, pages - 1);
  }
  for (uint64_t page = guest / kLogPage; page <= last; page++)
    __atomic_fetch_or(&log.bits[page / 8], static_cast<uint8_t>(1u << (page % 8)), __ATOMIC_SEQ_CST);
}

int mapLog(Context& c, int fd, uint64_t offset, uint64_t bytes) {
  if (bytes == 0 || bytes > static_cast<uint64_t>(kMaxSafe) || offset > static_cast<uint64_t>(INT64_MAX) - bytes)
    return -EINVAL;
  struct stat info;
  if (fstat(fd, &info) != 0) return -errno;
  if (!S_ISREG(info.st_mode)) return -EINVAL;
  if (static_cast<uint64_t>(info.st_size) < offset + bytes) return -EOVERFLOW;
  const uint64_t start = offset & ~(kLogPage - 1);
  const size_t length = static_cast<size_t>(bytes + (offset - start));
  void* at = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, static_cast<off_t>(start));
  if (at == MAP_FAILED) return -errno;
  auto log = std::make_unique<DirtyLog>();
  log->mapping = std::make_shared<Mapping>();
  log->mapping->base = static_cast<uint8_t*>(at);
  log->mapping->mapped = length;
  log->mapping->guard = guardMapping(log->mapping->base, length);
  if (log->mapping->guard < 0) return -ENOSPC;
  log->bits = log->mapping->base + (offset - start);
  log->bytes = bytes;
  if (c.log != nullptr) log->missed = c.log->missed;
  c.log = std::move(log);
  return 0;
}

napi_value setDirtyLog(napi_env env, napi_callback_info info) {
  napi_value args[3];
  void* data;
  if (arguments(env, info, args, 3, &data) < 3) return typeError(env, "setDirtyLog: three arguments");
  Context& c = *static_cast<Context*>(data);
  int fd;
  uint64_t offset, bytes;
  if (!toInt(env, args[0], &fd) || !toBig(env, args[1], &offset) || !toBig(env, args[2], &bytes))
    return typeError(env, "setDirtyLog: a descriptor and two unsigned bigints");
  if (c.disposed) return number(env, -EBADF);
  const bool on = c.dirty != nullptr;
  if (fd < 0) {
    dropDirtyLog(c);
    return number(env, 0);
  }
  const int fault = mapLog(c, fd, offset, bytes);
  if (on) c.dirty = c.log.get();
  return number(env, fault);
}

napi_value enableDirtyLog(napi_env env, napi_callback_info info) {
  napi_value args[1];
  void* data;
  bool on;
  if (arguments(env, info, args, 1, &data) < 1 || napi_get_value_bool(env, args[0], &on) != napi_ok)
    return typeError(env, "enableDirtyLog: a boolean");
  Context& c = *static_cast<Context*>(data);
  if (c.disposed) return number(env, -EBADF);
  if (on && c.log == nullptr) return number(env, -ENOENT);
  if (on && c.dirty == nullptr) c.log->missed = 0;
  c.dirty = on ? c.log.get() : nullptr;
  return number(env, 0);
}

napi_value dirtyLogMisses(napi_env env, napi_callback_info info) {
  void* data;
  arguments(env, info, nullptr, 0, &data);
  const Context& c = *static_cast<Context*>(data);
  return number(env, c.log == nullptr ? 0 : static_cast<double>(c.log->missed));
}

}  // namespace

void markRanges(DirtyLog& log, const std::vector<GuestRange>& ranges, int64_t bytes) {
  uint64_t left = bytes > 0 ? static_cast<uint64_t>(bytes) : 0;
  for (const GuestRange& range : ranges) {
    if (left == 0) return;
    const uint64_t part = std::min(left, range.bytes);
    markPages(log, range.guest, part);
    left -= part;
  }
}

// guest address, bytes
int64_t callMarkDirty(Context& c, const double* a) {
  uint64_t guest, bytes;
  if (!asUnsigned(a[0], kMaxSafe, &guest) || !asUnsigned(a[1], 4294967295.0, &bytes)) return -EINVAL;
  if (c.dirty != nullptr) markPages(*c.dirty, guest, bytes);
  return 0;
}

void dropDirtyLog(Context& c) {
  c.dirty = nullptr;
  c.log.reset();
}

void defineDirtyLog(napi_env env, napi_value object, Context* c) {
  defineFunction(env, object, "setDirtyLog", setDirtyLog, c);
  defineFunction(env, object, "enableDirtyLog", enableDirtyLog, c);
  defineFunction(env, object, "dirtyLogMisses", dirtyLogMisses, c);
}

}  // namespace vfsd
