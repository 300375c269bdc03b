// File system calls on descriptors and names in the arena. Each entry of kFsCalls takes its numbers
// from the mailbox and returns the system call's result or -errno. Context's thread only, but for the
// plain... functions, which the pool runs too.
#include "context.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/fsverity.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

namespace vfsd {

namespace {

constexpr size_t kMaxName = 4096;
constexpr size_t kStatxBytes = 256;
constexpr unsigned kMaxHandle = 128;

int64_t result(int64_t answer) { return answer >= 0 ? answer : -errno; }

// A name that ends inside the arena; null and `*fault` otherwise.
const char* nameAt(Context& c, double at, int64_t* fault) {
  uint64_t offset;
  if (!asUnsigned(at, static_cast<double>(c.arenaBytes), &offset) || offset == c.arenaBytes) {
    *fault = -EFAULT;
    return nullptr;
  }
  const size_t room = c.arenaBytes - offset;
  const char* name = reinterpret_cast<const char*>(c.arena + offset);
  if (memchr(name, 0, room < kMaxName ? room : kMaxName) == nullptr) {
    *fault = room < kMaxName ? -EFAULT : -ENAMETOOLONG;
    return nullptr;
  }
  return name;
}

// As nameAt, and EMPTY_PATH (-1) means the descriptor itself.
const char* pathAt(Context& c, double at, int* flags, int64_t* fault) {
  if (at != -1) return nameAt(c, at, fault);
  *flags |= AT_EMPTY_PATH;
  return "";
}

// The path of a descriptor's magic link. A thread with a working directory of its own stands in
// /proc/self/fd, so that the link is found where /proc is not (after a change of root).
struct ProcPath {
  char text[40];
  ProcPath(const Context& c, int fd) { snprintf(text, sizeof text, c.inProcFds ? "%d" : "/proc/self/fd/%d", fd); }
};

#define NAME(variable, value)                                 \
  int64_t variable##Fault = 0;                                \
  const char* variable = nameAt(c, value, &variable##Fault);  \
  if (variable == nullptr) return variable##Fault
#define INT(variable, value) \
  int variable;              \
  if (!asInt(value, &variable)) return -EINVAL
#define UNSIGNED(variable, value) \
  uint32_t variable;              \
  if (!asU32(value, &variable)) return -EINVAL
#define OFFSET(variable, value)                           \
  uint64_t variable##Wide;                                \
  if (!asUnsigned(value, kMaxSafe, &variable##Wide)) return -EINVAL; \
  const off_t variable = static_cast<off_t>(variable##Wide)
#define BYTES(pointer, at, count)                    \
  uint8_t* pointer = arenaRange(c, at, count);       \
  if (pointer == nullptr) return -EFAULT

int64_t openAt(Context& c, const double* a) {
  INT(dir, a[0]);
  NAME(name, a[1]);
  UNSIGNED(flags, a[2]);
  UNSIGNED(mode, a[3]);
  UNSIGNED(resolve, a[4]);
  open_how how = {};
  how.flags = flags | O_CLOEXEC | ((flags & O_PATH) != 0 ? 0 : O_NOCTTY);
  how.mode = mode;
  how.resolve = resolve;
  return result(syscall(SYS_openat2, dir, name, &how, sizeof how));
}

int64_t reopen(Context& c, const double* a) {
  INT(node, a[0]);
  INT(flags, a[1]);
  if (node < 0) return -EBADF;
  return result(open(ProcPath(c, node).text, flags | O_CLOEXEC | ((flags & O_PATH) != 0 ? 0 : O_NOCTTY)));
}

int64_t closeCall(Context& c, const double* a) {
  INT(fd, a[0]);
  return closeLater(c, fd) ? 0 : plainClose(a);
}

int64_t statxCall(Context& c, const double* a) {
  INT(dir, a[0]);
  INT(flags, a[2]);
  int64_t fault = 0;
  const char* name = pathAt(c, a[1], &flags, &fault);
  if (name == nullptr) return fault;
  UNSIGNED(mask, a[3]);
  BYTES(out, a[4], kStatxBytes);
  return result(syscall(SYS_statx, dir, name, flags | AT_SYMLINK_NOFOLLOW, mask, out));
}

int64_t statfsCall(Context& c, const double* a) {
  INT(node, a[0]);
  BYTES(out, a[1], sizeof(struct statfs));
  struct statfs info;
  if (fstatfs(node, &info) != 0) return -errno;
  memcpy(out, &info, sizeof info);
  return 0;
}

int64_t readlinkCall(Context& c, const double* a) {
  INT(node, a[0]);
  UNSIGNED(bytes, a[2]);
  BYTES(out, a[1], bytes);
  if (bytes == 0) return -EINVAL;
  const ssize_t got = readlinkat(node, "", reinterpret_cast<char*>(out), bytes);
  if (got < 0) return errno == ENOENT ? -EINVAL : -errno;  // ENOENT: not a symbolic link
  if (static_cast<size_t>(got) < bytes) return got;
  // Exactly full: it may have been cut.
  struct stat info;
  if (fstatat(node, "", &info, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0 && info.st_size == got) return got;
  return -ENAMETOOLONG;
}

// fd, out, bytes
int64_t fdLink(Context& c, const double* a) {
  INT(fd, a[0]);
  UNSIGNED(bytes, a[2]);
  BYTES(out, a[1], bytes);
  if (bytes == 0) return -EINVAL;
  const ssize_t got = readlink(ProcPath(c, fd).text, reinterpret_cast<char*>(out), bytes);
  if (got < 0) return -errno;
  return static_cast<size_t>(got) < bytes ? got : -ENAMETOOLONG;
}

int64_t mknodAt(Context& c, const double* a) {
  INT(dir, a[0]);
  NAME(name, a[1]);
  UNSIGNED(mode, a[2]);
  UNSIGNED(majorNumber, a[3]);
  UNSIGNED(minorNumber, a[4]);
  return result(mknodat(dir, name, mode, makedev(majorNumber, minorNumber)));
}

int64_t mkdirAt(Context& c, const double* a) {
  INT(dir, a[0]);
  NAME(name, a[1]);
  UNSIGNED(mode, a[2]);
  return result(mkdirat(dir, name, mode));
}

int64_t symlinkAt(Context& c, const double* a) {
  NAME(target, a[0]);
  INT(dir, a[1]);
  NAME(name, a[2]);
  return result(symlinkat(target, dir, name));
}

int64_t linkAt(Context& c, const double* a) {
  INT(node, a[0]);
  INT(dir, a[1]);
  NAME(name, a[2]);
  if (linkat(node, "", dir, name, AT_EMPTY_PATH) == 0) return 0;
  // Without CAP_DAC_READ_SEARCH the empty path is refused as if nothing were there.
  if (errno != ENOENT && errno != EPERM) return -errno;
  return result(linkat(AT_FDCWD, ProcPath(c, node).text, dir, name, AT_SYMLINK_FOLLOW));
}

int64_t unlinkAt(Context& c, const double* a) {
  INT(dir, a[0]);
  NAME(name, a[1]);
  INT(flags, a[2]);
  return result(unlinkat(dir, name, flags));
}

int64_t renameAt2(Context& c, const double* a) {
  INT(oldDir, a[0]);
  NAME(oldName, a[1]);
  INT(newDir, a[2]);
  NAME(newName, a[3]);
  UNSIGNED(flags, a[4]);
  return result(syscall(SYS_renameat2, oldDir, oldName, newDir, newName, flags));
}

int64_t chmodCall(Context& c, const double* a) {
  INT(node, a[0]);
  UNSIGNED(mode, a[1]);
  if (!c.noFchmodat2) {
    if (syscall(SYS_fchmodat2, node, "", mode, AT_EMPTY_PATH) == 0) return 0;
    if (errno != ENOSYS && errno != EINVAL) return -errno;
    c.noFchmodat2 = true;
  }
  struct stat info;
  if (fstatat(node, "", &info, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) return -errno;
  if (S_ISLNK(info.st_mode)) return -EOPNOTSUPP;
  return result(chmod(ProcPath(c, node).text, mode));
}

int64_t chownCall(Context&, const double* a) {
  INT(node, a[0]);
  // -1 leaves an id alone.
  uint32_t uid = UINT32_MAX, gid = UINT32_MAX;
  if (a[1] != -1 && !asU32(a[1], &uid)) return -EINVAL;
  if (a[2] != -1 && !asU32(a[2], &gid)) return -EINVAL;
  return result(fchownat(node, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
}

int64_t utimensCall(Context& c, const double* a) {
  INT(node, a[0]);
  int64_t atimeSec, mtimeSec;
  if (!asSigned(a[1], &atimeSec) || !asSigned(a[3], &mtimeSec)) return -EINVAL;
  UNSIGNED(atimeNsec, a[2]);
  UNSIGNED(mtimeNsec, a[4]);
  const timespec times[2] = {{static_cast<time_t>(atimeSec), static_cast<long>(atimeNsec)},
                             {static_cast<time_t>(mtimeSec), static_cast<long>(mtimeNsec)}};
  if (utimensat(node, "", times, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0) return 0;
  if (errno != EINVAL && errno != ENOENT) return -errno;
  return result(utimensat(AT_FDCWD, ProcPath(c, node).text, times, 0));
}

int64_t ftruncateCall(Context&, const double* a) { return plainFtruncate(a); }
int64_t fallocateCall(Context&, const double* a) { return plainFallocate(a); }
int64_t copyFileRangeCall(Context&, const double* a) { return plainCopyFileRange(a); }

int64_t lseekCall(Context&, const double* a) {
  INT(fd, a[0]);
  int64_t offset;
  if (!asSigned(a[1], &offset)) return -EINVAL;
  INT(whence, a[2]);
  return result(lseek(fd, offset, whence));
}

int64_t fsyncCall(Context&, const double* a) { return plainFsync(a); }
int64_t syncfsCall(Context&, const double* a) { return plainSyncfs(a); }

// fd, out, bytes, seek, cookieLow, cookieHigh
int64_t getdents(Context& c, const double* a) {
  INT(fd, a[0]);
  UNSIGNED(bytes, a[2]);
  BYTES(out, a[1], bytes);
  if (a[3] == 1) {
    uint32_t low, high;
    if (!asU32(a[4], &low) || !asU32(a[5], &high)) return -EINVAL;
    const uint64_t cookie = (static_cast<uint64_t>(high) << 32) | low;
    errno = 0;  // a cookie past 2^63 comes back as a negative position without an error
    if (lseek(fd, static_cast<off_t>(cookie), SEEK_SET) == static_cast<off_t>(-1) && errno != 0 &&
        static_cast<off_t>(cookie) != -1)
      return -errno;
  }
  return result(syscall(SYS_getdents64, fd, out, bytes));
}

int64_t getxattrCall(Context& c, const double* a) {
  INT(node, a[0]);
  NAME(name, a[1]);
  UNSIGNED(bytes, a[3]);
  BYTES(out, a[2], bytes);
  return result(getxattr(ProcPath(c, node).text, name, bytes == 0 ? nullptr : out, bytes));
}

int64_t setxattrCall(Context& c, const double* a) {
  INT(node, a[0]);
  NAME(name, a[1]);
  UNSIGNED(bytes, a[3]);
  BYTES(value, a[2], bytes);
  INT(flags, a[4]);
  return result(setxattr(ProcPath(c, node).text, name, value, bytes, flags));
}

int64_t listxattrCall(Context& c, const double* a) {
  INT(node, a[0]);
  UNSIGNED(bytes, a[2]);
  BYTES(out, a[1], bytes);
  return result(listxattr(ProcPath(c, node).text, bytes == 0 ? nullptr : reinterpret_cast<char*>(out), bytes));
}

int64_t removexattrCall(Context& c, const double* a) {
  INT(node, a[0]);
  NAME(name, a[1]);
  return result(removexattr(ProcPath(c, node).text, name));
}

int64_t faccess(Context&, const double* a) {
  INT(node, a[0]);
  INT(mode, a[1]);
  return result(syscall(SYS_faccessat2, node, "", mode, AT_EACCESS | AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
}

struct Handle {
  file_handle head;
  unsigned char bytes[kMaxHandle];
};

int64_t nameToHandle(Context& c, const double* a) {
  INT(dir, a[0]);
  int flags = 0;
  int64_t fault = 0;
  const char* name = pathAt(c, a[1], &flags, &fault);
  if (name == nullptr) return fault;
  BYTES(out, a[2], 8 + kMaxHandle);
  alignas(8) char room[sizeof(Handle)] = {0};
  file_handle* handle = reinterpret_cast<file_handle*>(room);
  handle->handle_bytes = kMaxHandle;
  int mount = 0;
  if (name_to_handle_at(dir, name, handle, &mount, flags) != 0) return -errno;
  memcpy(out, room, 8 + handle->handle_bytes);
  return mount;
}

int64_t openByHandle(Context& c, const double* a) {
  INT(mount, a[0]);
  BYTES(from, a[1], 8);
  INT(flags, a[2]);
  alignas(8) char room[sizeof(Handle)] = {0};
  memcpy(room, from, 8);
  file_handle* handle = reinterpret_cast<file_handle*>(room);
  if (handle->handle_bytes > kMaxHandle) return -EINVAL;
  const uint8_t* all = arenaRange(c, a[1], 8 + handle->handle_bytes);
  if (all == nullptr) return -EFAULT;
  memcpy(room + 8, all + 8, handle->handle_bytes);
  return result(open_by_handle_at(mount, handle, flags | O_CLOEXEC));
}

int64_t flockCall(Context&, const double* a) { return plainFlock(a); }

// fd, command, type, start, length, out
int64_t ofdLock(Context& c, const double* a) {
  INT(fd, a[0]);
  INT(command, a[1]);
  INT(type, a[2]);
  OFFSET(start, a[3]);
  OFFSET(length, a[4]);
  if (command != F_OFD_GETLK && command != F_OFD_SETLK && command != F_OFD_SETLKW) return -EINVAL;
  struct flock lock = {};
  lock.l_type = static_cast<short>(type);
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = length;
  if (fcntl(fd, command, &lock) != 0) return -errno;
  if (command != F_OFD_GETLK) return 0;
  BYTES(out, a[5], 24);
  const int32_t words[2] = {lock.l_type, lock.l_pid};
  const int64_t range[2] = {lock.l_start, lock.l_len};
  memcpy(out, words, 8);
  memcpy(out + 8, range, 16);
  return 0;
}

// An argument with pointers inside would let its bytes steer the kernel through our memory, so only
// known commands pass, and their pointers are set here.
int prepareIoctl(uint32_t command, uint8_t* arg, uint64_t bytes) {
  switch (command) {
    case FS_IOC_GETFLAGS:
    case FS_IOC_SETFLAGS:
    case FS_IOC_GETVERSION:
      return bytes >= sizeof(int) ? 0 : -EINVAL;
    case FS_IOC_FSGETXATTR:
    case FS_IOC_FSSETXATTR:
      return bytes >= sizeof(fsxattr) ? 0 : -EINVAL;
    case FS_IOC_MEASURE_VERITY: {
      // The digest follows its header; digest_size says how much room there is.
      fsverity_digest digest;
      if (bytes < sizeof digest) return -EINVAL;
      memcpy(&digest, arg, sizeof digest);
      return sizeof digest + digest.digest_size <= bytes ? 0 : -EINVAL;
    }
    case FS_IOC_ENABLE_VERITY: {
      // Salt and signature follow the struct, as FUSE carries them.
      fsverity_enable_arg enable;
      if (bytes < sizeof enable) return -EINVAL;
      memcpy(&enable, arg, sizeof enable);
      const uint64_t room = bytes - sizeof enable;
      if (enable.salt_size > room || enable.sig_size > room - enable.salt_size) return -EINVAL;
      uint8_t* salt = arg + sizeof enable;
      enable.salt_ptr = enable.salt_size > 0 ? reinterpret_cast<uintptr_t>(salt) : 0;
      enable.sig_ptr = enable.sig_size > 0 ? reinterpret_cast<uintptr_t>(salt + enable.salt_size) : 0;
      memcpy(arg, &enable, sizeof enable);
      return 0;
    }
    default:
      return -ENOTTY;
  }
}

// fd, command, arg, bytes
int64_t ioctlCall(Context& c, const double* a) {
  INT(fd, a[0]);
  UNSIGNED(command, a[1]);
  UNSIGNED(bytes, a[3]);
  BYTES(arg, a[2], bytes);
  const int fault = prepareIoctl(command, arg, bytes);
  if (fault != 0) return fault;
  return result(ioctl(fd, command, arg));
}

// --- credentials of this thread -------------------------------------------------------------------

int restore(Context& c) {
  const int fault = takeCredentials(c.credentials, c.groupsChanged);
  if (fault == 0) c.groupsChanged = false;
  return fault;
}

[[noreturn]] void cannotGoBack(int code) {
  fprintf(stderr, "virtiofsd: cannot restore the daemon's credentials: %s; ending at once\n", strerror(-code));
  abort();
}

// uid, gid, groupsAt, groupCount
int64_t setCredentials(Context& c, const double* a) {
  UNSIGNED(uid, a[0]);
  UNSIGNED(gid, a[1]);
  INT(count, a[3]);
  if (count > 65536) return -EINVAL;
  int64_t fault = 0;
  if (count >= 0) {
    BYTES(groups, a[2], static_cast<uint64_t>(count) * 4);
    if (syscall(SYS_setgroups, count, groups) != 0) return -errno;
    c.groupsChanged = true;
  }
  if (syscall(SYS_setresgid, -1, gid, -1) != 0 || syscall(SYS_setresuid, -1, uid, -1) != 0) fault = -errno;
  if (fault != 0) {
    const int back = restore(c);
    if (back != 0) cannotGoBack(back);
  }
  return fault;
}

int64_t restoreCredentials(Context& c, const double*) {
  const int back = restore(c);
  if (back != 0) cannotGoBack(back);
  return 0;
}

int64_t setEffectiveCapability(Context&, const double* a) {
  INT(capability, a[0]);
  INT(on, a[1]);
  if (capability < 0 || capability > 63) return -EINVAL;
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2] = {};
  if (syscall(SYS_capget, &header, sets) != 0) return -errno;
  const uint32_t bit = 1u << (capability % 32);
  uint32_t& word = sets[capability / 32].effective;
  const bool was = (word & bit) != 0;
  if (was == (on != 0)) return was;
  word = on != 0 ? word | bit : word & ~bit;
  if (syscall(SYS_capset, &header, sets) != 0) return -errno;
  return was;
}

int64_t umaskCall(Context&, const double* a) {
  UNSIGNED(mask, a[0]);
  return umask(mask);
}

int64_t unshareFs(Context& c, const double*) {
  if (unshare(CLONE_FS) != 0) return -errno;
  if (fchdir(c.procFds) != 0) return -errno;
  c.inProcFds = true;
  return 0;
}

int64_t memfdCreate(Context&, const double*) { return result(memfd_create("virtiofsd", MFD_CLOEXEC)); }

}  // namespace

int takeCredentials(const Credentials& who, bool groupsToo) {
  // The user first: with it come back the capabilities that the rest needs.
  if (syscall(SYS_setresuid, -1, who.uid, -1) != 0) return -errno;
  if (syscall(SYS_setresgid, -1, who.gid, -1) != 0) return -errno;
  if (groupsToo && syscall(SYS_setgroups, who.groups.size(), who.groups.data()) != 0) return -errno;
  return 0;
}

int64_t plainClose(const double* a) {
  INT(fd, a[0]);
  // Linux closes the descriptor even when it reports EINTR.
  return close(fd) == 0 || errno == EINTR ? 0 : -errno;
}

int64_t plainFsync(const double* a) {
  INT(fd, a[0]);
  return result(a[1] == 1 ? fdatasync(fd) : fsync(fd));
}

int64_t plainSyncfs(const double* a) {
  INT(fd, a[0]);
  const int64_t answer = result(syncfs(fd));
  // The pool owns a descriptor that was opened for this call alone.
  if (a[1] == 1) close(fd);
  return answer;
}

int64_t plainFallocate(const double* a) {
  INT(fd, a[0]);
  INT(mode, a[1]);
  OFFSET(offset, a[2]);
  OFFSET(length, a[3]);
  return result(fallocate(fd, mode, offset, length));
}

int64_t plainCopyFileRange(const double* a) {
  INT(from, a[0]);
  OFFSET(fromAt, a[1]);
  INT(to, a[2]);
  OFFSET(toAt, a[3]);
  OFFSET(length, a[4]);
  loff_t in = fromAt, out = toAt;
  return result(copy_file_range(from, &in, to, &out, static_cast<size_t>(length), 0));
}

int64_t plainFlock(const double* a) {
  INT(fd, a[0]);
  INT(operation, a[1]);
  return result(flock(fd, operation));
}

// fd, type, start, length: waits for the lock.
int64_t plainOfdLock(const double* a) {
  INT(fd, a[0]);
  INT(type, a[1]);
  OFFSET(start, a[2]);
  OFFSET(length, a[3]);
  struct flock lock = {};
  lock.l_type = static_cast<short>(type);
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = length;
  return result(fcntl(fd, F_OFD_SETLKW, &lock));
}

int64_t plainFtruncate(const double* a) {
  INT(fd, a[0]);
  OFFSET(size, a[1]);
  return result(ftruncate(fd, size));
}

const HotCall kFsCalls[] = {
    {"openat", openAt},
    {"reopen", reopen},
    {"close", closeCall},
    {"statx", statxCall},
    {"statfs", statfsCall},
    {"readlink", readlinkCall},
    {"fdLink", fdLink},
    {"mknodat", mknodAt},
    {"mkdirat", mkdirAt},
    {"symlinkat", symlinkAt},
    {"linkat", linkAt},
    {"unlinkat", unlinkAt},
    {"renameat2", renameAt2},
    {"chmod", chmodCall},
    {"chown", chownCall},
    {"utimens", utimensCall},
    {"ftruncate", ftruncateCall},
    {"fallocate", fallocateCall},
    {"copyFileRange", copyFileRangeCall},
    {"lseek", lseekCall},
    {"fsync", fsyncCall},
    {"syncfs", syncfsCall},
    {"getdents64", getdents},
    {"getxattr", getxattrCall},
    {"setxattr", setxattrCall},
    {"listxattr", listxattrCall},
    {"removexattr", removexattrCall},
    {"faccess", faccess},
    {"nameToHandle", nameToHandle},
    {"openByHandle", openByHandle},
    {"flock", flockCall},
    {"ofdLock", ofdLock},
    {"ioctl", ioctlCall},
    {"setCredentials", setCredentials},
    {"restoreCredentials", restoreCredentials},
    {"setEffectiveCapability", setEffectiveCapability},
    {"umask", umaskCall},
    {"unshareFs", unshareFs},
    {"memfdCreate", memfdCreate},
};
const size_t kFsCallCount = sizeof kFsCalls / sizeof kFsCalls[0];

}  // namespace vfsd
