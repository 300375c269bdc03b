// Exports of the shim. It knows descriptors, memory and system calls; no FUSE opcode and no policy.
#include <napi.h>

#include "context.h"
#include "sandbox.h"

static Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  vfsd::defineFunction(env, exports, "createContext", vfsd::createContext, nullptr);
  vfsd::defineModuleSockets(env, exports);
  vfsd::defineModuleProcess(env, exports);
  vfsd::defineSandbox(env, exports);
  return exports;
}

NODE_API_MODULE(virtiofsd_native, initialise)
