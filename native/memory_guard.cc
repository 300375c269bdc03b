// SIGBUS in a mapping of a file that its owner cut short. Without this a front end could end the daemon
// by truncating its own memory file. The handler puts zero pages where the file is gone and marks the
// mapping; whoever translates an address into it then gets a fault. Any thread, and in the handler only
// what POSIX allows there (mmap is a plain system call on Linux).
#include "context.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

namespace vfsd {

namespace {

constexpr int kMaxGuards = 4096;

struct Guard {
  std::atomic<uintptr_t> base{0};  // 0: free; 1: being written
  std::atomic<size_t> bytes{0};
  std::atomic<bool> torn{false};
};

Guard guards[kMaxGuards];
struct sigaction former;

void onBusError(int signal, siginfo_t* info, void* context) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(info->si_addr);
  for (Guard& guard : guards) {
    const uintptr_t base = guard.base.load(std::memory_order_acquire);
    const size_t bytes = guard.bytes.load(std::memory_order_acquire);
    if (base <= 1 || at < base || at - base >= bytes) continue;
    // Another thread may have given the place to another mapping between the two. The one that is meant here
    // stays: whoever touches a mapping holds it.
    if (guard.base.load(std::memory_order_relaxed) != base) continue;
    // All of it, not a page: huge pages cannot be replaced by parts, and nothing of it is trusted now.
    void* zero = mmap(reinterpret_cast<void*>(base), bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (zero == MAP_FAILED) break;
    guard.torn.store(true, std::memory_order_release);
    return;
  }
  // Not ours: as if this handler had never been there.
  if ((former.sa_flags & SA_SIGINFO) != 0 && former.sa_sigaction != nullptr) {
    former.sa_sigaction(signal, info, context);
    return;
  }
  struct sigaction fallback = {};
  fallback.sa_handler = SIG_DFL;
  sigaction(signal, &fallback, nullptr);
}

bool installed() {
  struct sigaction action = {};
  action.sa_sigaction = onBusError;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  return sigaction(SIGBUS, &action, &former) == 0;
}

}  // namespace

int guardMapping(uint8_t* base, size_t bytes) {
  static const bool ready = installed();
  if (!ready) return -1;
  for (int i = 0; i < kMaxGuards; i++) {
    uintptr_t free = 0;
    if (!guards[i].base.compare_exchange_strong(free, 1)) continue;
    guards[i].bytes.store(bytes, std::memory_order_release);
    guards[i].torn.store(false, std::memory_order_relaxed);
    guards[i].base.store(reinterpret_cast<uintptr_t>(base), std::memory_order_release);
    return i;
  }
  return -1;
}

void dropGuard(int guard) { guards[guard].base.store(0, std::memory_order_release); }

bool isTorn(int guard) { return guards[guard].torn.load(std::memory_order_relaxed); }

}  // namespace vfsd
