/**
 * The system-call filter: what Node and the shim need once the daemon serves, and nothing else. The list
 * comes from tracing the daemon at work (strace -f over the guest tests), plus what libc, libuv and V8 fall
 * back to on other kernels and under memory pressure. The filter is a BPF program for seccomp(2).
 *
 * Source: linux/seccomp.h, linux/filter.h, Documentation/userspace-api/seccomp_filter.rst (6.1).
 */
import { Errno } from '../../protocol/errno.js'
import { AUDIT_ARCH, SYSCALLS } from '../../protocol/linux/syscalls.js'
import type { SeccompAction } from './daemon-options.js'

export type Machine = keyof typeof AUDIT_ARCH

/** Allowed whatever their arguments. */
const ALLOWED = [
  // Time, identity, memory and threads: libc, V8.
  'brk clock_getres clock_gettime clock_nanosleep exit exit_group futex futex_waitv get_robust_list',
  'getcpu getegid geteuid getgid getgroups getpid getppid getrandom getresgid getresuid getrusage gettid',
  'gettimeofday getuid madvise membarrier mincore mlock mmap mprotect mremap msync munmap nanosleep',
  'pkey_alloc pkey_free pkey_mprotect restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask',
  'rt_sigreturn rt_sigtimedwait sched_get_priority_max sched_get_priority_min sched_getaffinity',
  'sched_getparam sched_getscheduler sched_yield set_robust_list set_tid_address',
  'sigaltstack sysinfo uname arch_prctl',
  // Descriptors and waiting: libuv, the shim.
  'accept4 close close_range dup dup3 epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd2',
  'getsockname getsockopt memfd_create pipe2 poll ppoll read readv recvfrom recvmsg sendmsg sendto',
  'shutdown timerfd_create timerfd_settime write writev',
  // Files.
  'access copy_file_range faccessat2 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fdatasync',
  'fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate getcwd getdents64 getxattr',
  'fanotify_mark inotify_add_watch inotify_init1 inotify_rm_watch',
  'lgetxattr linkat listxattr lseek lsetxattr mkdirat mknodat name_to_handle_at newfstatat open',
  'open_by_handle_at openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 readlink readlinkat',
  'removexattr renameat2 setxattr statfs statx symlinkat syncfs umask unlink unlinkat utimensat',
  // Acting as the guest's caller; CAP_FSETID.
  'capget capset setgroups setresgid setresuid',
]
  .join(' ')
  .split(' ')

/** Refused with an errno that makes the caller fall back, whatever the action. */
const REFUSED: Readonly<Record<string, number>> = {
  // Its flags cannot be looked at: libc then takes clone.
  clone3: Errno.ENOSYS,
  io_uring_setup: Errno.ENOSYS,
  // The log's socket is open; it does not come back inside the sandbox.
  socket: Errno.EPERM,
  connect: Errno.EPERM,
  sched_setscheduler: Errno.EPERM,
}

const CLONE_THREAD = 0x0001_0000
/** CLONE_NEW*: mount, cgroup, uts, ipc, user, pid, net. */
const CLONE_NAMESPACES = 0x7e02_0000
const CLONE_FS = 0x0000_0200

/** Allowed when the low word of argument `arg` passes. */
interface Condition {
  readonly arg: number
  /** These values; or this bit set, and none of those. */
  readonly values?: readonly number[]
  readonly bit?: number
  readonly without?: number
}

/** FS_IOC_*: what the shim lets pass; FIONBIO, FIOCLEX, TCGETS: libuv. */
const IOCTLS = [
  0x80086601, 0x40086602, 0x80087601, 0x801c581f, 0x401c5820, 0x40806685, 0xc0046686, 0x5421,
  0x5451, 0x5401,
]
/** F_DUPFD, GETFD, SETFD, GETFL, SETFL, OFD_GETLK, OFD_SETLK, OFD_SETLKW, DUPFD_CLOEXEC. F_SETOWN would signal others. */
const FCNTLS = [0, 1, 2, 3, 4, 36, 37, 38, 1030]
const PR_SET_NAME = 15
const PR_GET_NAME = 16
const PR_SET_VMA = 0x53564d41
const PR_CAP_AMBIENT = 47

function conditions(pid: number): Readonly<Record<string, Condition>> {
  return {
    // New threads, no processes.
    clone: { arg: 0, bit: CLONE_THREAD, without: CLONE_NAMESPACES },
    fcntl: { arg: 1, values: FCNTLS },
    ioctl: { arg: 1, values: IOCTLS },
    prctl: { arg: 0, values: [PR_SET_NAME, PR_GET_NAME, PR_SET_VMA, PR_CAP_AMBIENT] },
    // Limits may be read, those of this process.
    prlimit64: { arg: 0, values: [0, pid] },
    sched_setaffinity: { arg: 0, values: [0] },
    // Signals to itself: abort, the thread pool.
    tgkill: { arg: 0, values: [pid] },
    unshare: { arg: 0, values: [CLONE_FS] },
  }
}

// Classic BPF, as linux/bpf_common.h names it.
const LD_W_ABS = 0x20
const JEQ = 0x15
const JGE = 0x35
const JSET = 0x45
const RETURN = 0x06

const RET_ALLOW = 0x7fff0000
const RET_ERRNO = 0x00050000
const RET_ACTION: Readonly<Record<Exclude<SeccompAction, 'none'>, number>> = {
  kill: 0x80000000,
  log: 0x7ffc0000,
  trap: 0x00030000,
}
const X32_BIT = 0x40000000
const NR_OFFSET = 0
const ARCH_OFFSET = 4
const ARGS_OFFSET = 16

/** Instructions of 8 bytes: code u16, jump-true u8, jump-false u8, k u32. */
class Program {
  readonly #code: number[][] = []

  add(code: number, k: number, jt = 0, jf = 0): void {
    this.#code.push([code, jt, jf, k])
  }

  bytes(): Uint8Array {
    const bytes = new Uint8Array(this.#code.length * 8)
    const view = new DataView(bytes.buffer)
    for (const [i, [code, jt, jf, k]] of this.#code.entries()) {
      view.setUint16(i * 8, code!, true)
      view.setUint8(i * 8 + 2, jt!)
      view.setUint8(i * 8 + 3, jf!)
      view.setUint32(i * 8 + 4, k!, true)
    }
    return bytes
  }
}

/** The program for `machine`; `pid` is the process it is for. */
export function seccompProgram(
  machine: Machine,
  action: Exclude<SeccompAction, 'none'>,
  pid: number,
): Uint8Array {
  const program = new Program()
  const otherwise = RET_ACTION[action]
  program.add(LD_W_ABS, ARCH_OFFSET)
  program.add(JEQ, AUDIT_ARCH[machine], 1, 0)
  program.add(RETURN, otherwise)
  program.add(LD_W_ABS, NR_OFFSET)
  if (machine === 'x64') {
    program.add(JGE, X32_BIT, 0, 1)
    program.add(RETURN, otherwise)
  }
  const each = (name: string, use: (nr: number) => void): void => {
    const nr = SYSCALLS[name]![machine]
    if (nr !== undefined) use(nr)
  }
  for (const name of ALLOWED)
    each(name, nr => {
      program.add(JEQ, nr, 0, 1)
      program.add(RETURN, RET_ALLOW)
    })
  for (const [name, errno] of Object.entries(REFUSED))
    each(name, nr => {
      program.add(JEQ, nr, 0, 1)
      program.add(RETURN, RET_ERRNO | errno)
    })
  for (const [name, { arg, values, bit, without }] of Object.entries(conditions(pid)))
    each(name, nr => {
      const tests: [code: number, k: number, answer: number][] = []
      if (without !== undefined) tests.push([JSET, without, otherwise])
      if (bit !== undefined) tests.push([JSET, bit, RET_ALLOW])
      for (const value of values ?? []) tests.push([JEQ, value, RET_ALLOW])
      // Past the load, the tests with their returns, and the last return.
      program.add(JEQ, nr, 0, tests.length * 2 + 2)
      program.add(LD_W_ABS, ARGS_OFFSET + arg * 8)
      for (const [code, k, answer] of tests) {
        program.add(code, k, 0, 1)
        program.add(RETURN, answer)
      }
      program.add(RETURN, otherwise)
    })
  program.add(RETURN, otherwise)
  return program.bytes()
}

/** The machine this runs on, or undefined where there is no table for it. */
export function thisMachine(): Machine | undefined {
  return process.arch in AUDIT_ARCH ? (process.arch as Machine) : undefined
}
