// Means of isolation, for the whole process: a root of its own, namespaces, capabilities, a system-call
// filter. Which of them and when is decided in src/daemon/sandbox.ts. Called on the main thread.
#include "context.h"
#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 4
#endif

namespace vfsd {

namespace {

// Closed when it goes out of scope.
struct OwnedFd {
  int fd;
  explicit OwnedFd(int value) : fd(value) {}
  OwnedFd(const OwnedFd&) = delete;
  OwnedFd& operator=(const OwnedFd&) = delete;
  ~OwnedFd() {
    if (fd >= 0) close(fd);
  }
};

// An answer and, for an error, the step that failed.
napi_value outcome(napi_env env, int answer, const char* step) {
  napi_value pair, text;
  napi_create_array_with_length(env, 2, &pair);
  napi_set_element(env, pair, 0, number(env, answer));
  napi_create_string_utf8(env, step, NAPI_AUTO_LENGTH, &text);
  napi_set_element(env, pair, 1, text);
  return pair;
}

// What every thread does. Descriptors of -1 leave things as they are.
struct Order {
  int mount;
  int root;
  int net;
  int landlock;
  uint64_t capabilities;
};

// Landlock (linux/landlock.h), by its numbers: the headers of Debian 12 know the first version only.
struct LandlockRules {
  uint64_t files;
  uint64_t net;
  uint64_t scopes;
};
struct __attribute__((packed)) LandlockPath {
  uint64_t allowed;
  int32_t parent;
};
constexpr long kCreateRuleset = 444, kAddRule = 445, kRestrictSelf = 446;

// Everything in a directory is allowed. 0 or -errno.
int allow(int ruleset, uint64_t what, int directory) {
  const LandlockPath rule = {what, directory};
  return syscall(kAddRule, ruleset, 1, &rule, 0) == 0 ? 0 : -errno;
}

// A ruleset that allows everything in the directory and nothing elsewhere: its descriptor; -1 on kernels
// that do not have it (before 5.19 it refused every rename between directories); or -errno. `files` is what
// it rules over.
int makeRuleset(const char* path, uint64_t* files) {
  const long version = syscall(kCreateRuleset, nullptr, 0, 1);
  if (version < 2) return -1;
  LandlockRules rules = {};
  // Bits 0-12 since version 1, REFER 2, TRUNCATE 3, IOCTL_DEV 5.
  rules.files = version >= 5 ? 0xffff : version >= 3 ? 0x7fff : 0x3fff;
  // TCP bind and connect; abstract UNIX sockets and signals of others.
  if (version >= 4) rules.net = 3;
  if (version >= 6) rules.scopes = 3;
  const size_t bytes = version >= 6 ? 24 : version >= 4 ? 16 : 8;
  const int ruleset = static_cast<int>(syscall(kCreateRuleset, &rules, bytes, 0));
  if (ruleset < 0) return -errno;
  *files = rules.files;
  OwnedFd parent(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
  const int answer = parent.fd < 0 ? -errno : allow(ruleset, rules.files, parent.fd);
  if (answer == 0) return ruleset;
  close(ruleset);
  return answer;
}

// A small file system in memory that is mounted nowhere: a descriptor on its root, or -errno (EPERM: it takes
// CAP_SYS_ADMIN over the mount namespace). It is gone with the last descriptor.
int makeStage() {
  OwnedFd fs(static_cast<int>(syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC)));
  if (fs.fd < 0 || syscall(SYS_fsconfig, fs.fd, FSCONFIG_SET_STRING, "size", "1m", 0) != 0 ||
      syscall(SYS_fsconfig, fs.fd, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return -errno;
  const unsigned flags = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  const int root = static_cast<int>(syscall(SYS_fsmount, fs.fd, FSMOUNT_CLOEXEC, flags));
  return root >= 0 ? root : -errno;
}

// The sets of this thread become their intersection with the mask; the bounding set, too.
int limitCapabilities(uint64_t mask) {
  // What is not permitted to be changed (no CAP_SETPCAP) or not known is no harm: nothing can be gained.
  for (int capability = 0; capability < 64; capability++)
    if ((mask >> capability & 1) == 0) prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -errno;
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2] = {};
  if (syscall(SYS_capget, &header, sets) != 0) return -errno;
  for (int word = 0; word < 2; word++) {
    const uint32_t part = static_cast<uint32_t>(mask >> (word * 32));
    sets[word].permitted &= part;
    sets[word].effective &= part;
    sets[word].inheritable = 0;
  }
  return syscall(SYS_capset, &header, sets) == 0 ? 0 : -errno;
}

int limitThread(const Order& order) {
  const int answer = limitCapabilities(order.capabilities);
  if (answer < 0 || order.landlock < 0) return answer;
  return syscall(kRestrictSelf, order.landlock, 0) == 0 ? 0 : -errno;
}

int obey(const void* with) {
  const auto* order = static_cast<const Order*>(with);
  // A thread that shares its root with others cannot change its mount namespace.
  if (order->mount >= 0 && (unshare(CLONE_FS) != 0 || setns(order->mount, CLONE_NEWNS) != 0)) return -errno;
  // setns leads to the root of the namespace, which is outside of the chroot that a launcher may have made.
  if (order->mount >= 0 && (fchdir(order->root) != 0 || chroot(".") != 0)) return -errno;
  if (order->net >= 0 && setns(order->net, CLONE_NEWNET) != 0) return -errno;
  return limitThread(*order);
}

// The descriptors on /proc/self/fd that are kept come to lie in a mount of their own, above which there is
// nothing: otherwise who has taken the process over could go up from there to all of /proc, and root may
// write core_pattern without any capability.
int shutProc() {
  OwnedFd own(static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, "/proc/self/fd", OPEN_TREE_CLONE | O_CLOEXEC)));
  return own.fd < 0 ? -errno : replaceProcFds(own.fd);
}

// Makes a copy of the tree of mounts at `path` the root of this thread's own mount namespace.
int pivot(const char* path, const char** step) {
  *step = "making the mounts slaves of the host's";
  if (mount(nullptr, "/", nullptr, MS_SLAVE | MS_REC, nullptr) != 0) return -errno;
  if (strcmp(path, "/") == 0) return 0;  // everything is shared
  *step = "copying the mounts of the shared directory";
  OwnedFd tree(static_cast<int>(
      syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | AT_RECURSIVE | O_CLOEXEC)));
  if (tree.fd < 0) return -errno;
  *step = "mounting the copy over the shared directory";
  if (syscall(SYS_move_mount, tree.fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) != 0) return -errno;
  *step = "opening the old root";
  OwnedFd old(open("/", O_DIRECTORY | O_RDONLY | O_CLOEXEC));
  if (old.fd < 0) return -errno;
  *step = "entering the shared directory";
  if (fchdir(tree.fd) != 0) return -errno;
  *step = "changing the root";
  if (syscall(SYS_pivot_root, ".", ".") != 0) return -errno;
  *step = "leaving the old root";
  if (fchdir(old.fd) != 0) return -errno;
  if (mount(nullptr, ".", nullptr, MS_SLAVE | MS_REC, nullptr) != 0) return -errno;
  if (umount2(".", MNT_DETACH) != 0) return -errno;
  *step = "entering the new root";
  return chdir("/") == 0 ? 0 : -errno;
}

enum Mode { kNone, kChroot, kNamespace, kNamespaceAndNet, kModes };

// `*stage`: the stage's root; -errno when there is none, which is no fault.
int isolateProcess(int mode, const char* path, uint64_t capabilities, bool landlock, int* stage, const char** step) {
  *step = "making Landlock rules";
  uint64_t files = 0;
  OwnedFd ruleset(landlock ? makeRuleset(path, &files) : -1);
  if (ruleset.fd < -1) return ruleset.fd;
  *step = "unsharing the namespaces";
  const bool mounts = mode >= kNamespace;
  const bool net = mode == kNamespaceAndNet;
  if (mounts && unshare(CLONE_NEWNS | (net ? CLONE_NEWNET : 0)) != 0) return -errno;
  OwnedFd mountFd(mounts ? open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC) : -1);
  OwnedFd netFd(net ? open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC) : -1);
  *step = "opening the namespaces";
  OwnedFd rootFd(mounts ? open("/", O_PATH | O_DIRECTORY | O_CLOEXEC) : -1);
  if ((mounts && (mountFd.fd < 0 || rootFd.fd < 0)) || (net && netFd.fd < 0)) return -errno;
  *stage = makeStage();
  *step = "making Landlock rules for the stage";
  const int allowed = *stage >= 0 && ruleset.fd >= 0 ? allow(ruleset.fd, files, *stage) : 0;
  if (allowed < 0) return allowed;
  *step = "cutting /proc/self/fd off";
  const int shut = mode == kNone ? 0 : shutProc();
  // Without CAP_SYS_ADMIN, as in a container, chroot has to do without.
  if (shut < 0 && mounts) return shut;
  // Now, while the threads can be found in /proc. They get this thread's root, which the change of
  // root below changes for all of them.
  *step = "isolating every thread";
  const Order order = {mountFd.fd, rootFd.fd, netFd.fd, ruleset.fd, capabilities};
  int answer = onEveryOtherThread(obey, &order);
  if (answer == 0 && mounts) answer = pivot(path, step);
  if (answer == 0 && mode == kChroot) {
    *step = "changing the root";
    if (chroot(path) != 0 || chdir("/") != 0) answer = -errno;
  }
  if (answer < 0) return answer;
  *step = "dropping capabilities";
  return limitThread(order);
}

// isolate(mode, sharedDir, capabilities, landlock): [answer, step, stage]
napi_value isolate(napi_env env, napi_callback_info info) {
  napi_value args[4];
  bool landlock;
  std::string path;
  int mode;
  uint64_t capabilities;
  if (arguments(env, info, args, 4, nullptr) < 4 || !toInt(env, args[0], &mode) || mode < 0 || mode >= kModes ||
      !toText(env, args[1], &path) || !toBig(env, args[2], &capabilities) ||
      napi_get_value_bool(env, args[3], &landlock) != napi_ok)
    return typeError(env, "isolate: a mode, a path, a mask and a boolean");
  const char* step = "";
  int stage = -1;
  const int answer = isolateProcess(mode, path.c_str(), capabilities, landlock, &stage, &step);
  napi_value result = outcome(env, answer, step);
  napi_set_element(env, result, 2, number(env, stage));
  return result;
}

// The permitted set of the calling thread, as a bigint.
napi_value getCapabilities(napi_env env, napi_callback_info) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2] = {};
  napi_value result;
  if (syscall(SYS_capget, &header, sets) != 0) return number(env, -errno);
  napi_create_bigint_uint64(env, static_cast<uint64_t>(sets[1].permitted) << 32 | sets[0].permitted, &result);
  return result;
}

// installFilter(program): BPF instructions of 8 bytes each, for every thread. 0 or -errno.
napi_value installFilter(napi_env env, napi_callback_info info) {
  napi_value args[1];
  bool is = false;
  napi_typedarray_type type;
  size_t length = 0;
  void* at = nullptr;
  if (arguments(env, info, args, 1, nullptr) < 1 || napi_is_typedarray(env, args[0], &is) != napi_ok || !is ||
      napi_get_typedarray_info(env, args[0], &type, &length, &at, nullptr, nullptr) != napi_ok ||
      type != napi_uint8_array || length == 0 || length % sizeof(sock_filter) != 0 || length > 4096 * sizeof(sock_filter))
    return typeError(env, "installFilter: a Uint8Array of 8 bytes an instruction");
  std::vector<sock_filter> code(length / sizeof(sock_filter));
  memcpy(code.data(), at, length);
  sock_fprog program = {static_cast<unsigned short>(code.size()), code.data()};
  const long answer = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
  // A positive answer is a thread that has another filter.
  return number(env, answer < 0 ? -errno : answer > 0 ? -EBUSY : 0);
}

// execute(file, arguments, fd): replaces the process; comes back with -errno only. Node has marked every
// descriptor it was started with to be closed: the standard three and `fd` are kept.
napi_value execute(napi_env env, napi_callback_info info) {
  napi_value args[3];
  std::string file;
  uint32_t count = 0;
  int kept;
  if (arguments(env, info, args, 3, nullptr) < 3 || !toInt(env, args[2], &kept) || !toText(env, args[0], &file) ||
      napi_get_array_length(env, args[1], &count) != napi_ok)
    return typeError(env, "execute: a file, its arguments and a descriptor");
  std::vector<std::string> words(count);
  std::vector<char*> pointers;
  for (uint32_t i = 0; i < count; i++) {
    napi_value word;
    if (napi_get_element(env, args[1], i, &word) != napi_ok || !toText(env, word, &words[i]))
      return typeError(env, "execute: arguments are strings");
    pointers.push_back(words[i].data());
  }
  pointers.push_back(nullptr);
  for (int fd : {0, 1, 2, kept})
    if (fd >= 0) fcntl(fd, F_SETFD, 0);
  execv(file.c_str(), pointers.data());
  return number(env, -errno);
}

}  // namespace

void defineSandbox(napi_env env, napi_value exports) {
  defineFunction(env, exports, "isolate", isolate, nullptr);
  defineFunction(env, exports, "getCapabilities", getCapabilities, nullptr);
  defineFunction(env, exports, "installFilter", installFilter, nullptr);
  defineFunction(env, exports, "execute", execute, nullptr);
}

}  // namespace vfsd
