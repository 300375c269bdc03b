// Guest memory: regions of the front end mapped into this process, the translation of guest addresses,
// and ring views. Every address that comes from a guest passes `translate`. Context's thread only.
#include "context.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace vfsd {

Mapping::~Mapping() {
  if (base == nullptr) return;
  if (guard >= 0) dropGuard(guard);
  munmap(base, mapped);
}

uint8_t* translate(Context& c, uint64_t guest, uint64_t bytes, uint64_t* have, size_t* region) {
  auto inside = [&](const Region& r) { return guest >= r.guest && guest - r.guest < r.bytes; };
  size_t i = c.lastHit;
  if (i >= c.regions.size() || !inside(c.regions[i])) {
    auto after = std::upper_bound(c.regions.begin(), c.regions.end(), guest,
                                  [](uint64_t address, const Region& r) { return address < r.guest; });
    if (after == c.regions.begin()) return nullptr;
    i = static_cast<size_t>(after - c.regions.begin()) - 1;
    if (!inside(c.regions[i])) return nullptr;
    c.lastHit = i;
  }
  const Region& r = c.regions[i];
  if (isTorn(r.mapping->guard)) return nullptr;
  const uint64_t offset = guest - r.guest;
  *have = std::min(bytes, r.bytes - offset);
  if (region != nullptr) *region = i;
  return r.host + offset;
}

int64_t gather(Context& c, double first, double count, double skip, double bytes, std::vector<iovec>* iov,
               std::vector<std::shared_ptr<Mapping>>* held, std::vector<GuestRange>* ranges) {
  uint64_t from, segments, toSkip, wanted;
  const double limit = static_cast<double>(c.maxSegments);
  if (!asUnsigned(first, limit, &from) || !asUnsigned(count, limit, &segments) || segments > c.maxSegments - from ||
      !asUnsigned(skip, kMaxSafe, &toSkip) || !asUnsigned(bytes, kMaxSafe, &wanted))
    return -EINVAL;
  int64_t total = 0;
  size_t lastHeld = SIZE_MAX;
  for (uint64_t s = from; s < from + segments && wanted > 0; s++) {
    uint64_t address, length;
    if (!asUnsigned(c.segments[s * 2], kMaxSafe, &address) || !asUnsigned(c.segments[s * 2 + 1], kMaxSafe, &length))
      return -EFAULT;
    if (toSkip >= length) {
      toSkip -= length;
      continue;
    }
    address += toSkip;
    length = std::min(length - toSkip, wanted);
    toSkip = 0;
    while (length > 0) {
      uint64_t have;
      size_t region;
      uint8_t* host = translate(c, address, length, &have, &region);
      if (host == nullptr) return -EFAULT;
      if (!iov->empty() && static_cast<uint8_t*>(iov->back().iov_base) + iov->back().iov_len == host)
        iov->back().iov_len += have;
      else
        iov->push_back({host, have});
      if (held != nullptr && region != lastHeld) {
        held->push_back(c.regions[region].mapping);
        lastHeld = region;
      }
      if (ranges != nullptr) ranges->push_back({address, have});
      address += have;
      length -= have;
      wanted -= have;
      total += static_cast<int64_t>(have);
    }
  }
  return total;
}

namespace {

// Copies between arena and segments without an iovec list: the common request is one or two pieces.
int64_t copySegments(Context& c, const double* a, bool toGuest) {
  uint64_t bytes;
  if (!asUnsigned(a[4], static_cast<double>(c.arenaBytes), &bytes)) return -EFAULT;
  uint8_t* arena = arenaRange(c, a[3], bytes);
  if (arena == nullptr) return -EFAULT;
  const bool logged = toGuest && c.dirty != nullptr;
  c.iov.clear();
  c.ranges.clear();
  const int64_t total = gather(c, a[0], a[1], a[2], a[4], &c.iov, nullptr, logged ? &c.ranges : nullptr);
  if (total < 0) return total;
  for (const iovec& piece : c.iov) {
    if (toGuest)
      memcpy(piece.iov_base, arena, piece.iov_len);
    else
      memcpy(arena, piece.iov_base, piece.iov_len);
    arena += piece.iov_len;
  }
  if (logged) markRanges(*c.dirty, c.ranges, total);
  return total;
}

uint8_t* translateUser(Context& c, uint64_t user, uint64_t bytes, std::shared_ptr<Mapping>* mapping) {
  for (Region& r : c.regions) {
    if (user < r.user || user - r.user >= r.bytes) continue;
    const uint64_t offset = user - r.user;
    if (bytes > r.bytes - offset) return nullptr;
    *mapping = r.mapping;
    return r.host + offset;
  }
  return nullptr;
}

void forgetAvail(Context& c, const uint8_t* host, size_t bytes) {
  for (int i = 0; i < kMaxRings; i++) {
    const uint8_t* at = reinterpret_cast<const uint8_t*>(c.availIndex[i]);
    if (at != nullptr && at >= host && at < host + bytes) c.availIndex[i] = nullptr;
  }
}

void dropView(Context& c, size_t index) {
  RingView& view = c.views[index];
  forgetAvail(c, view.host, view.bytes);
  if (c.env != nullptr) {
    napi_handle_scope scope;
    napi_open_handle_scope(c.env, &scope);
    napi_value buffer;
    if (!view.mapping->viewsLast && napi_get_reference_value(c.env, view.reference, &buffer) == napi_ok &&
        buffer != nullptr)
      napi_detach_arraybuffer(c.env, buffer);
    napi_delete_reference(c.env, view.reference);
    napi_close_handle_scope(c.env, scope);
  }
  c.views.erase(c.views.begin() + static_cast<std::ptrdiff_t>(index));
}

void dropViewsOf(Context& c, const Mapping* mapping) {
  for (size_t i = c.views.size(); i-- > 0;)
    if (c.views[i].mapping.get() == mapping) dropView(c, i);
}

bool overlaps(uint64_t a, uint64_t b, uint64_t aBytes, uint64_t bBytes) { return a < b + bBytes && b < a + aBytes; }

int mapRegion(Context& c, int fd, uint64_t offset, bool viewsLast, Region region) {
  // Addresses are handed around as doubles: they must be exact.
  const uint64_t safe = static_cast<uint64_t>(kMaxSafe);
  if (region.bytes == 0 || region.bytes > safe || region.guest > safe - region.bytes ||
      region.user > UINT64_MAX - region.bytes || offset > static_cast<uint64_t>(INT64_MAX) - region.bytes)
    return -EINVAL;
  for (const Region& r : c.regions)
    if (overlaps(r.guest, region.guest, r.bytes, region.bytes) || overlaps(r.user, region.user, r.bytes, region.bytes))
      return -EEXIST;
  if (c.regions.size() >= kMaxRegions) return -ENOSPC;
  struct stat info;
  if (fstat(fd, &info) != 0) return -errno;
  if (!S_ISREG(info.st_mode)) return -EINVAL;
  if (static_cast<uint64_t>(info.st_size) < offset + region.bytes) return -EOVERFLOW;
  // The offset need not be on a page (old front ends); huge pages want their own multiple.
  const uint64_t page = std::max<uint64_t>(static_cast<uint64_t>(info.st_blksize), 4096);
  const uint64_t unit = (page & (page - 1)) == 0 && page <= (1ULL << 30) ? page : 4096;
  const uint64_t start = offset & ~(unit - 1);
  const uint64_t before = offset - start;
  const uint64_t length = (region.bytes + before + unit - 1) & ~(unit - 1);
  void* at = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, static_cast<off_t>(start));
  if (at == MAP_FAILED) return -errno;
  madvise(at, length, MADV_DONTDUMP);
  region.mapping = std::make_shared<Mapping>();
  region.mapping->base = static_cast<uint8_t*>(at);
  region.mapping->mapped = length;
  region.mapping->viewsLast = viewsLast;
  region.mapping->guard = guardMapping(region.mapping->base, length);
  if (region.mapping->guard < 0) return -ENOSPC;
  region.host = region.mapping->base + before;
  auto place = std::upper_bound(c.regions.begin(), c.regions.end(), region.guest,
                                [](uint64_t address, const Region& r) { return address < r.guest; });
  c.regions.insert(place, std::move(region));
  c.lastHit = 0;
  return 0;
}

napi_value addRegion(napi_env env, napi_callback_info info) {
  napi_value args[6];
  void* data;
  const size_t count = arguments(env, info, args, 6, &data);
  if (count < 5) return typeError(env, "addRegion: five arguments");
  Context& c = *static_cast<Context*>(data);
  int fd;
  uint64_t offset;
  bool viewsLast = false;
  Region region;
  if (count == 6 && napi_get_value_bool(env, args[5], &viewsLast) != napi_ok)
    return typeError(env, "addRegion: a boolean");
  if (!toInt(env, args[0], &fd) || !toBig(env, args[1], &offset) || !toBig(env, args[2], &region.guest) ||
      !toBig(env, args[3], &region.user) || !toBig(env, args[4], &region.bytes))
    return typeError(env, "addRegion: a descriptor and four unsigned bigints");
  if (c.disposed) return number(env, -EBADF);
  return number(env, mapRegion(c, fd, offset, viewsLast, std::move(region)));
}

napi_value removeRegion(napi_env env, napi_callback_info info) {
  napi_value args[3];
  void* data;
  if (arguments(env, info, args, 3, &data) < 3) return typeError(env, "removeRegion: three arguments");
  Context& c = *static_cast<Context*>(data);
  uint64_t guest, user, bytes;
  if (!toBig(env, args[0], &guest) || !toBig(env, args[1], &user) || !toBig(env, args[2], &bytes))
    return typeError(env, "removeRegion: unsigned bigints");
  if (c.disposed) return number(env, -EBADF);
  for (size_t i = 0; i < c.regions.size(); i++) {
    const Region& r = c.regions[i];
    if (r.guest != guest || r.user != user || r.bytes != bytes) continue;
    dropViewsOf(c, r.mapping.get());
    c.regions.erase(c.regions.begin() + static_cast<std::ptrdiff_t>(i));
    c.lastHit = 0;
    return number(env, 0);
  }
  return number(env, -ENOENT);
}

napi_value clearRegions(napi_env env, napi_callback_info info) {
  void* data;
  arguments(env, info, nullptr, 0, &data);
  Context& c = *static_cast<Context*>(data);
  if (c.disposed) return number(env, -EBADF);
  const size_t count = c.regions.size();
  releaseGuestMemory(c);
  return number(env, static_cast<double>(count));
}

void releaseMapping(napi_env, void*, void* held) { delete static_cast<std::shared_ptr<Mapping>*>(held); }

napi_value mapView(napi_env env, napi_callback_info info) {
  napi_value args[3];
  void* data;
  if (arguments(env, info, args, 3, &data) < 3) return typeError(env, "mapView: three arguments");
  Context& c = *static_cast<Context*>(data);
  uint64_t user, bytes, alignment;
  double wideBytes, wideAlignment;
  if (!toBig(env, args[0], &user) || !toDouble(env, args[1], &wideBytes) || !toDouble(env, args[2], &wideAlignment))
    return typeError(env, "mapView: a bigint and two numbers");
  if (c.disposed) return number(env, -EBADF);
  if (!asUnsigned(wideBytes, 4294967295.0, &bytes) || bytes == 0 || !asUnsigned(wideAlignment, 4096, &alignment) ||
      alignment == 0)
    return number(env, -EINVAL);
  RingView view;
  view.host = translateUser(c, user, bytes, &view.mapping);
  if (view.host == nullptr) return number(env, -EFAULT);
  if (user % alignment != 0 || reinterpret_cast<uintptr_t>(view.host) % alignment != 0) return number(env, -EINVAL);
  view.bytes = bytes;
  napi_value buffer;
  auto* held = view.mapping->viewsLast ? new std::shared_ptr<Mapping>(view.mapping) : nullptr;
  if (napi_create_external_arraybuffer(env, view.host, bytes, held == nullptr ? nullptr : releaseMapping, held,
                                       &buffer) != napi_ok) {
    delete held;
    return number(env, -ENOMEM);
  }
  napi_create_reference(env, buffer, 1, &view.reference);
  c.views.push_back(std::move(view));
  return buffer;
}

// Index of the view over `buffer`, or -1.
std::ptrdiff_t findView(napi_env env, Context& c, napi_value buffer) {
  for (size_t i = 0; i < c.views.size(); i++) {
    napi_value known;
    bool same = false;
    if (napi_get_reference_value(env, c.views[i].reference, &known) == napi_ok && known != nullptr &&
        napi_strict_equals(env, known, buffer, &same) == napi_ok && same)
      return static_cast<std::ptrdiff_t>(i);
  }
  return -1;
}

napi_value unmapView(napi_env env, napi_callback_info info) {
  napi_value args[1];
  void* data;
  if (arguments(env, info, args, 1, &data) < 1) return typeError(env, "unmapView: one argument");
  Context& c = *static_cast<Context*>(data);
  const std::ptrdiff_t index = findView(env, c, args[0]);
  if (index >= 0) dropView(c, static_cast<size_t>(index));
  return nullptr;
}

napi_value watchRing(napi_env env, napi_callback_info info) {
  napi_value args[2];
  void* data;
  if (arguments(env, info, args, 2, &data) < 2) return typeError(env, "watchRing: two arguments");
  Context& c = *static_cast<Context*>(data);
  int ring;
  if (c.disposed) return number(env, -EBADF);
  if (!toInt(env, args[0], &ring) || ring < 0 || ring >= kMaxRings) return number(env, -EINVAL);
  napi_valuetype type;
  napi_typeof(env, args[1], &type);
  if (type != napi_object) {
    c.availIndex[ring] = nullptr;
    return number(env, 0);
  }
  const std::ptrdiff_t index = findView(env, c, args[1]);
  if (index < 0 || c.views[static_cast<size_t>(index)].bytes < 4) return number(env, -EINVAL);
  c.availIndex[ring] = reinterpret_cast<const uint16_t*>(c.views[static_cast<size_t>(index)].host + 2);
  return number(env, 0);
}

}  // namespace

int64_t callCopyIn(Context& c, const double* a) { return copySegments(c, a, false); }
int64_t callCopyOut(Context& c, const double* a) { return copySegments(c, a, true); }

void releaseGuestMemory(Context& c) {
  while (!c.views.empty()) dropView(c, c.views.size() - 1);
  c.regions.clear();
  c.lastHit = 0;
}

void defineGuestMemory(napi_env env, napi_value object, Context* c) {
  defineFunction(env, object, "addRegion", addRegion, c);
  defineFunction(env, object, "removeRegion", removeRegion, c);
  defineFunction(env, object, "clearRegions", clearRegions, c);
  defineFunction(env, object, "mapView", mapView, c);
  defineFunction(env, object, "unmapView", unmapView, c);
  defineFunction(env, object, "watchRing", watchRing, c);
}

}  // namespace vfsd
