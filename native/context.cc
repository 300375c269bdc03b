// Making and ending a Context, and the N-API glue of the hot calls: each is a function whose data is
// {context, call}, so that nothing is looked up and no argument is converted. Runs on the context's
// own thread.
#include "context.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

namespace vfsd {

void defineFunction(napi_env env, napi_value object, const char* name, napi_callback callback, void* data) {
  napi_value function;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, data, &function);
  napi_set_named_property(env, object, name, function);
}

napi_value number(napi_env env, double value) {
  napi_value result;
  napi_create_double(env, value, &result);
  return result;
}

size_t arguments(napi_env env, napi_callback_info info, napi_value* out, size_t most, void** data) {
  size_t count = most;
  napi_get_cb_info(env, info, &count, out, nullptr, data);
  return count < most ? count : most;
}

bool toDouble(napi_env env, napi_value value, double* out) {
  return napi_get_value_double(env, value, out) == napi_ok;
}
bool toInt(napi_env env, napi_value value, int* out) {
  double wide;
  return toDouble(env, value, &wide) && asInt(wide, out);
}

bool toText(napi_env env, napi_value value, std::string* out) {
  size_t length = 0;
  if (napi_get_value_string_utf8(env, value, nullptr, 0, &length) != napi_ok) return false;
  out->resize(length);
  return napi_get_value_string_utf8(env, value, out->data(), length + 1, &length) == napi_ok;
}
bool toBig(napi_env env, napi_value value, uint64_t* out) {
  bool lossless = false;
  return napi_get_value_bigint_uint64(env, value, out, &lossless) == napi_ok && lossless;
}
napi_value typeError(napi_env env, const char* message) {
  napi_throw_type_error(env, nullptr, message);
  return nullptr;
}

namespace {

struct BoundCall {
  Context* context;
  int64_t (*run)(Context& c, const double* args);
};

napi_value runHotCall(napi_env env, napi_callback_info info) {
  void* data = nullptr;
  size_t none = 0;
  napi_get_cb_info(env, info, &none, nullptr, nullptr, &data);
  const BoundCall* bound = static_cast<const BoundCall*>(data);
  Context& c = *bound->context;
  if (c.disposed) {
    // The mailbox stays: only what could reach memory or descriptors is gone.
    c.mail[0] = -EBADF;
    return nullptr;
  }
  const int64_t result = bound->run(c, c.mail + 1);
  c.mail[0] = static_cast<double>(result);
  return nullptr;
}

napi_value dispose(napi_env env, napi_callback_info info) {
  void* data = nullptr;
  arguments(env, info, nullptr, 0, &data);
  disposeContext(*static_cast<Context*>(data));
  return nullptr;
}

// The shared arrays stay until the environment ends: JavaScript may hold views of them.
struct Owner {
  Context context;
  std::vector<std::unique_ptr<BoundCall>> bound;
  uint8_t* shared = nullptr;
  size_t sharedBytes = 0;
};

void endOfEnvironment(void* data) {
  Owner* owner = static_cast<Owner*>(data);
  // JavaScript no longer runs: views must not be touched through N-API any more.
  owner->context.env = nullptr;
  disposeContext(owner->context);
  // No JavaScript runs after this hook: nobody can reach the arrays any more.
  munmap(owner->shared, owner->sharedBytes);
  delete owner;
}

bool option(napi_env env, napi_value options, const char* name, double most, uint64_t* out) {
  napi_value value;
  double wide;
  return napi_get_named_property(env, options, name, &value) == napi_ok && toDouble(env, value, &wide) &&
         asUnsigned(wide, most, out) && *out > 0;
}

void shareArray(napi_env env, napi_value object, const char* name, void* at, size_t bytes) {
  napi_value buffer;
  napi_create_external_arraybuffer(env, at, bytes, nullptr, nullptr, &buffer);
  napi_set_named_property(env, object, name, buffer);
}

const HotCall kCoreCalls[] = {
    {"copyIn", callCopyIn}, {"copyOut", callCopyOut}, {"readv", callReadv},
    {"writev", callWritev}, {"readvAfter", callReadvAfter},
    {"submit", callSubmit},   {"reap", callReap},
    {"submitAlone", callSubmitAlone}, {"interrupt", callInterrupt},
    {"wait", callWait},     {"nowUs", callNowUs},     {"preemptions", callPreemptions}, {"eventSignal", callEventSignal}, {"markDirty", callMarkDirty},
    {"pollNow", callPollNow}, {"readMapped", callReadMapped},
};

size_t roundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

void rememberCredentials(Context& c) {
  c.credentials.uid = static_cast<uint32_t>(syscall(SYS_geteuid));
  c.credentials.gid = static_cast<uint32_t>(syscall(SYS_getegid));
  const long count = syscall(SYS_getgroups, 0, nullptr);
  if (count > 0) {
    std::vector<uint32_t>& groups = c.credentials.groups;
    groups.resize(static_cast<size_t>(count));
    const long got = syscall(SYS_getgroups, static_cast<int>(count), groups.data());
    groups.resize(got > 0 ? static_cast<size_t>(got) : 0);
  }
}

// Descriptors on /proc/self/fd of all contexts.
std::mutex procFdsMutex;
std::vector<int> allProcFds;

}  // namespace

int replaceProcFds(int by) {
  std::lock_guard<std::mutex> lock(procFdsMutex);
  for (int fd : allProcFds)
    if (dup3(by, fd, O_CLOEXEC) < 0) return -errno;
  return 0;
}

void disposeContext(Context& c) {
  if (c.disposed) return;
  stopPool(c);
  c.pool.reset();
  releaseGuestMemory(c);
  dropDirtyLog(c);
  c.fileMaps.clear();
  dropSharedMemory(c);
  c.disposed = true;
  {
    std::lock_guard<std::mutex> lock(procFdsMutex);
    allProcFds.erase(std::remove(allProcFds.begin(), allProcFds.end(), c.procFds), allProcFds.end());
  }
  for (int* fd : {&c.epoll, &c.procFds}) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
  }
  c.watched.clear();
}

napi_value createContext(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (arguments(env, info, args, 1, nullptr) < 1) return typeError(env, "createContext: options are missing");
  uint64_t arenaBytes, maxSegments, poolThreads;
  if (!option(env, args[0], "arenaBytes", 64.0 * 1024 * 1024, &arenaBytes) || arenaBytes % 4096 != 0)
    return typeError(env, "createContext: arenaBytes must be a multiple of 4096 up to 64 MiB");
  if (!option(env, args[0], "maxSegments", 65536, &maxSegments))
    return typeError(env, "createContext: maxSegments must be 1 to 65536");
  if (!option(env, args[0], "poolThreads", 256, &poolThreads))
    return typeError(env, "createContext: poolThreads must be 1 to 256");

  auto* owner = new Owner();
  Context& c = owner->context;
  c.env = env;
  c.arenaBytes = arenaBytes;
  c.maxSegments = maxSegments;
  c.pool = std::make_shared<Pool>();
  c.pool->limit = poolThreads;

  const size_t segmentBytes = roundUp(maxSegments * 2 * sizeof(double), 64);
  const size_t mailBytes = 4096;
  owner->sharedBytes = roundUp(arenaBytes + segmentBytes + mailBytes, 4096);
  void* shared = mmap(nullptr, owner->sharedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  c.epoll = epoll_create1(EPOLL_CLOEXEC);
  c.pool->doneEvent = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  c.procFds = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (shared == MAP_FAILED || c.epoll < 0 || c.pool->doneEvent < 0 || c.procFds < 0) {
    const int code = errno;
    if (c.epoll >= 0) close(c.epoll);
    if (c.procFds >= 0) close(c.procFds);
    if (shared != MAP_FAILED) munmap(shared, owner->sharedBytes);
    delete owner;
    napi_throw_error(env, nullptr, (std::string("createContext: ") + strerror(code)).c_str());
    return nullptr;
  }
  {
    std::lock_guard<std::mutex> lock(procFdsMutex);
    allProcFds.push_back(c.procFds);
  }
  owner->shared = static_cast<uint8_t*>(shared);
  c.arena = owner->shared;
  c.segments = reinterpret_cast<double*>(owner->shared + arenaBytes);
  uint8_t* mailPage = owner->shared + arenaBytes + segmentBytes;
  c.mail = reinterpret_cast<double*>(mailPage);
  c.lastAvail = reinterpret_cast<int32_t*>(mailPage + 512);
  c.ready = reinterpret_cast<int32_t*>(mailPage + 1024);
  c.fds = reinterpret_cast<int32_t*>(mailPage + 1536);
  for (int i = 0; i < kMaxRings; i++) c.lastAvail[i] = -1;

  epoll_event event = {};
  event.events = EPOLLIN | EPOLLET;
  event.data.fd = c.pool->doneEvent;
  epoll_ctl(c.epoll, EPOLL_CTL_ADD, c.pool->doneEvent, &event);
  rememberCredentials(c);
  c.pool->credentials = c.credentials;

  napi_value object;
  napi_create_object(env, &object);
  shareArray(env, object, "arena", c.arena, arenaBytes);
  shareArray(env, object, "mail", c.mail, kMailSlots * sizeof(double));
  shareArray(env, object, "segments", c.segments, maxSegments * 2 * sizeof(double));
  shareArray(env, object, "lastAvail", c.lastAvail, kMaxRings * sizeof(int32_t));
  shareArray(env, object, "ready", c.ready, kMaxReady * sizeof(int32_t));
  shareArray(env, object, "fds", c.fds, kMaxMessageFds * sizeof(int32_t));

  auto bind = [&](const HotCall& call) {
    owner->bound.push_back(std::make_unique<BoundCall>(BoundCall{&c, call.run}));
    defineFunction(env, object, call.name, runHotCall, owner->bound.back().get());
  };
  for (const HotCall& call : kCoreCalls) bind(call);
  for (size_t i = 0; i < kFsCallCount; i++) bind(kFsCalls[i]);
  defineGuestMemory(env, object, &c);
  defineFileWatch(env, object, &c);
  defineFileMap(env, object, &c);
  defineDirtyLog(env, object, &c);
  defineSharedMemory(env, object, &c);
  defineEventWait(env, object, &c);
  defineSocketCalls(env, object, &c);
  defineFunction(env, object, "dispose", dispose, &c);
  napi_add_env_cleanup_hook(env, endOfEnvironment, owner);
  return object;
}

}  // namespace vfsd
