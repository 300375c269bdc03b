/**
 * Constants of the Linux system-call interface that travel in FUSE requests or go to the shim.
 *
 * O_* have the values of include/uapi/asm-generic/fcntl.h, which x86 and RISC-V use. FUSE passes on what
 * the guest's own machine uses, and arm64 (like 32-bit arm) differs in four: O_DIRECTORY 0o40000,
 * O_NOFOLLOW 0o100000, O_DIRECT 0o200000, O_LARGEFILE 0o400000. Everything else here is the same on all
 * machines but mips, alpha, sparc, parisc and powerpc.
 */

/** open(2). Source: include/uapi/asm-generic/fcntl.h. */
export const O_ACCMODE = 0o3
export const O_RDONLY = 0
export const O_WRONLY = 1
export const O_RDWR = 2
export const O_CREAT = 0o100
export const O_EXCL = 0o200
export const O_NOCTTY = 0o400
export const O_TRUNC = 0o1000
export const O_APPEND = 0o2000
export const O_NONBLOCK = 0o4000
export const O_DSYNC = 0o10000
/** FASYNC. */
export const O_ASYNC = 0o20000
export const O_DIRECT = 0o40000
export const O_LARGEFILE = 0o100000
export const O_DIRECTORY = 0o200000
export const O_NOFOLLOW = 0o400000
export const O_NOATIME = 0o1000000
export const O_CLOEXEC = 0o2000000
/** With the bit of O_DSYNC. */
export const O_SYNC = 0o4010000
export const O_PATH = 0o10000000
/** With the bit of O_DIRECTORY. */
export const O_TMPFILE = 0o20200000

/** Mode bits. Source: include/uapi/linux/stat.h. */
export const S_IFMT = 0o170000
export const S_IFSOCK = 0o140000
export const S_IFLNK = 0o120000
export const S_IFREG = 0o100000
export const S_IFBLK = 0o060000
export const S_IFDIR = 0o040000
export const S_IFCHR = 0o020000
export const S_IFIFO = 0o010000
export const S_ISUID = 0o4000
export const S_ISGID = 0o2000
export const S_ISVTX = 0o1000
export const S_IXGRP = 0o0010

/** d_type of directory entries: the S_IFMT bits shifted down by 12. Source: include/linux/fs_types.h. */
export const DT_UNKNOWN = 0
export const DT_FIFO = 1
export const DT_CHR = 2
export const DT_DIR = 4
export const DT_BLK = 6
export const DT_REG = 8
export const DT_LNK = 10
export const DT_SOCK = 12
export const DT_WHT = 14

/** Flags of the *at(2) calls. Source: include/uapi/linux/fcntl.h. */
export const AT_FDCWD = -100
export const AT_SYMLINK_NOFOLLOW = 0x100
/** faccessat2(2) alone; the number of AT_REMOVEDIR. */
export const AT_EACCESS = 0x200
/** unlinkat(2) alone. */
export const AT_REMOVEDIR = 0x200
export const AT_SYMLINK_FOLLOW = 0x400
export const AT_NO_AUTOMOUNT = 0x800
export const AT_EMPTY_PATH = 0x1000
/** statx(2) alone: how fresh the answer must be. */
export const AT_STATX_SYNC_TYPE = 0x6000
export const AT_STATX_SYNC_AS_STAT = 0
export const AT_STATX_FORCE_SYNC = 0x2000
export const AT_STATX_DONT_SYNC = 0x4000

/** renameat2(2). Source: include/uapi/linux/fs.h. */
export const RENAME_NOREPLACE = 1
export const RENAME_EXCHANGE = 2
export const RENAME_WHITEOUT = 4

/** fallocate(2). Source: include/uapi/linux/falloc.h. */
export const FALLOC_FL_KEEP_SIZE = 0x01
export const FALLOC_FL_PUNCH_HOLE = 0x02
/** Reserved, and refused by every file system of the kernel. */
export const FALLOC_FL_NO_HIDE_STALE = 0x04
export const FALLOC_FL_COLLAPSE_RANGE = 0x08
export const FALLOC_FL_ZERO_RANGE = 0x10
export const FALLOC_FL_INSERT_RANGE = 0x20
export const FALLOC_FL_UNSHARE_RANGE = 0x40
/** Linux 6.17. */
export const FALLOC_FL_WRITE_ZEROES = 0x80

/** lseek(2). Source: include/uapi/linux/fs.h. */
export const SEEK_SET = 0
export const SEEK_CUR = 1
export const SEEK_END = 2
export const SEEK_DATA = 3
export const SEEK_HOLE = 4

/** setxattr(2). Source: include/uapi/linux/xattr.h. */
export const XATTR_CREATE = 1
export const XATTR_REPLACE = 2
/** Limits of include/uapi/linux/limits.h, in bytes. */
export const XATTR_NAME_MAX = 255
export const XATTR_SIZE_MAX = 65536
export const XATTR_LIST_MAX = 65536
export const PATH_MAX = 4096

/** fcntl(2) locks and flock(2). Source: include/uapi/asm-generic/fcntl.h. */
export const F_RDLCK = 0
export const F_WRLCK = 1
export const F_UNLCK = 2
export const F_OFD_GETLK = 36
export const F_OFD_SETLK = 37
export const LOCK_SH = 1
export const LOCK_EX = 2
export const LOCK_NB = 4
export const LOCK_UN = 8

/** openat2(2). Source: include/uapi/linux/openat2.h. */
export const RESOLVE_NO_XDEV = 0x01
export const RESOLVE_NO_MAGICLINKS = 0x02
export const RESOLVE_NO_SYMLINKS = 0x04
export const RESOLVE_BENEATH = 0x08
export const RESOLVE_IN_ROOT = 0x10
/** Linux 5.12. */
export const RESOLVE_CACHED = 0x20

/** preadv2(2), pwritev2(2). Source: include/uapi/linux/fs.h. */
export const RWF_HIPRI = 0x01
export const RWF_DSYNC = 0x02
export const RWF_SYNC = 0x04
export const RWF_NOWAIT = 0x08
export const RWF_APPEND = 0x10
/** At the offset given even on O_APPEND (Linux 6.9). */
export const RWF_NOAPPEND = 0x20
/** Linux 6.11. */
export const RWF_ATOMIC = 0x40
/** Linux 6.14. */
export const RWF_DONTCACHE = 0x80

/** Capability numbers. Source: include/uapi/linux/capability.h. */
export const CAP_CHOWN = 0
export const CAP_DAC_OVERRIDE = 1
export const CAP_DAC_READ_SEARCH = 2
export const CAP_FOWNER = 3
export const CAP_FSETID = 4

/**
 * ioctl numbers of what file systems keep per file (include/uapi/linux/fs.h, fsverity.h), on 64-bit
 * machines: GETFLAGS and SETFLAGS carry the size of a long in the number, and of an int in the data.
 */
export const FS_IOC_GETFLAGS = 0x80086601
export const FS_IOC_SETFLAGS = 0x40086602
/** As a 32-bit process has them. */
export const FS_IOC32_GETFLAGS = 0x80046601
export const FS_IOC32_SETFLAGS = 0x40046602
export const FS_IOC_GETVERSION = 0x80087601
export const FS_IOC_FSGETXATTR = 0x801c581f
export const FS_IOC_FSSETXATTR = 0x401c5820
export const FS_IOC_ENABLE_VERITY = 0x40806685
export const FS_IOC_MEASURE_VERITY = 0xc0046686

/** Of the inode ioctls that are passed on: this one changes the inode. */
export function ioctlChanges(command: number): boolean {
  return (
    command === FS_IOC_SETFLAGS || command === FS_IOC_FSSETXATTR || command === FS_IOC_ENABLE_VERITY
  )
}
