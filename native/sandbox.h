// What a sandbox is made of: see sandbox.cc, every_thread.cc.
#pragma once

#include <node_api.h>

#include <cstdint>

namespace vfsd {

// Runs `run(with)` in a signal handler of every thread but the calling one, and waits for all of them.
// `run` may make system calls and nothing else, and returns 0 or -errno. Returns 0, the first thread's
// -errno, or -ETIMEDOUT. Threads that start meanwhile inherit what their maker has: call it when none does.
int onEveryOtherThread(int (*run)(const void*), const void* with);

void defineSandbox(napi_env env, napi_value exports);

}  // namespace vfsd
