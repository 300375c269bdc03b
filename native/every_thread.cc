// Does something on each thread of the process: credentials, capabilities, namespaces and the root
// belong to a thread in Linux, and a sandbox with one thread outside is none. As the C library does for
// setuid: a signal to each thread, whose handler makes the system calls. The signal is the C library's
// own for that (33), the only one that no thread of Node has blocked; its action is put back afterwards.
#include "sandbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

namespace vfsd {

namespace {

constexpr int kSignal = 33;
constexpr int kLimitMs = 5000;

// The kernel's struct sigaction: the C library's wrapper refuses its own signals.
struct KernelAction {
  void (*handler)(int);
  unsigned long flags;
  void (*restorer)();
  uint64_t mask;
};

#if defined(__x86_64__)
extern "C" void vfsd_restore_signal();
asm(".text\n.global vfsd_restore_signal\n.hidden vfsd_restore_signal\nvfsd_restore_signal:\n"
    "  mov $15, %eax\n  syscall\n");
constexpr unsigned long kRestorer = 0x04000000;  // SA_RESTORER
#endif

std::atomic<int (*)(const void*)> work{nullptr};
const void* argument = nullptr;
std::atomic<int> finished{0};
std::atomic<int> fault{0};

void handle(int) {
  const int before = errno;
  int (*run)(const void*) = work.load(std::memory_order_acquire);
  if (run != nullptr) {
    const int answer = run(argument);
    int none = 0;
    if (answer < 0) fault.compare_exchange_strong(none, answer);
    finished.fetch_add(1, std::memory_order_release);
  }
  errno = before;
}

int setAction(const KernelAction* now, KernelAction* before) {
  return syscall(SYS_rt_sigaction, kSignal, now, before, sizeof(uint64_t)) == 0 ? 0 : -errno;
}

// Sends the signal to each thread but ours; returns how many there are, or -errno.
int signalOthers(pid_t self) {
  const int folder = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return -errno;
  DIR* tasks = fdopendir(folder);
  if (tasks == nullptr) {
    const int code = errno;
    close(folder);
    return -code;
  }
  int count = 0;
  while (const dirent* entry = readdir(tasks)) {
    const pid_t thread = atoi(entry->d_name);
    if (thread <= 0 || thread == self) continue;
    if (syscall(SYS_tgkill, getpid(), thread, kSignal) == 0) count++;
  }
  closedir(tasks);
  return count;
}

}  // namespace

int onEveryOtherThread(int (*run)(const void*), const void* with) {
  KernelAction action = {}, before = {};
  action.handler = handle;
  action.flags = SA_RESTART;
#if defined(__x86_64__)
  action.flags |= kRestorer;
  action.restorer = vfsd_restore_signal;
#endif
  action.mask = ~0ULL;
  const int refused = setAction(&action, &before);
  if (refused < 0) return refused;
  argument = with;
  finished = 0;
  fault = 0;
  work.store(run, std::memory_order_release);
  const int count = signalOthers(static_cast<pid_t>(syscall(SYS_gettid)));
  int answer = count < 0 ? count : 0;
  for (int waited = 0; answer == 0 && finished.load(std::memory_order_acquire) < count; waited++) {
    if (waited >= kLimitMs) answer = -ETIMEDOUT;
    const timespec millisecond = {0, 1000000};
    nanosleep(&millisecond, nullptr);
  }
  work.store(nullptr, std::memory_order_release);
  setAction(&before, nullptr);
  return answer < 0 ? answer : fault.load();
}

}  // namespace vfsd
