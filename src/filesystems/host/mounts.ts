/** What kind of file system lies below: whether its file I/O can block on more than a local disk. */
import type { Context } from '../../native/context.js'
import { OTHER_AT } from './scratch.js'

/**
 * How READ and WRITE of a file are carried out:
 * - `memory`: the data is always there (tmpfs, ramfs): inline;
 * - `disk`: reads are tried with RWF_NOWAIT first, what would wait goes to the pool; buffered writes
 *   are inline, as they end in the page cache;
 * - `remote`: everything goes to the pool.
 */
export type MountKind = 'memory' | 'disk' | 'remote'

/** f_type of statfs(2) (include/uapi/linux/magic.h and the file systems' own). */
const KINDS = new Map<number, MountKind>([
  [0x01021994, 'memory'], // tmpfs
  [0x858458f6, 'memory'], // ramfs
  [0x958458f6, 'memory'], // hugetlbfs
  [0x6969, 'remote'], // nfs
  [0xff534d42, 'remote'], // cifs
  [0xfe534d42, 'remote'], // smb2
  [0x65735546, 'remote'], // fuse
  [0x00c36400, 'remote'], // ceph
  [0x01021997, 'remote'], // 9p
  [0x5346414f, 'remote'], // afs
  [0x0bd00bd0, 'remote'], // lustre
  [0x47504653, 'remote'], // gpfs
])

const OVERLAYFS = 0x794c7630

/** File systems all of whose changes are made on this host, by system calls that raise events. */
const LOCAL: ReadonlySet<number> = new Set([
  0xef53, // ext2, ext3, ext4
  0x58465342, // xfs
  0x9123683e, // btrfs
  0xf2f52010, // f2fs
  0xca451a4e, // bcachefs
  0x2fc12fc1, // zfs
  0x01021994, // tmpfs
  0x858458f6, // ramfs
  OVERLAYFS,
  0x3153464a, // jfs
  0x52654973, // reiserfs
  0x3434, // nilfs2
  0x4d44, // fat
  0x2011bab0, // exfat
  0x7366746e, // ntfs3
  0x73717368, // squashfs
  0xe0f5e1e2, // erofs
  0x9660, // iso9660
  0x15013346, // udf
])

/** File systems where every descriptor of a file sees the same: not overlayfs, whose files move when written. */
const PLAIN: ReadonlySet<number> = new Set([
  0xef53, // ext2, ext3, ext4
  0x58465342, // xfs
  0x9123683e, // btrfs
  0xf2f52010, // f2fs
  0xca451a4e, // bcachefs
  0x01021994, // tmpfs
])

export class Mounts {
  readonly #kinds = new Map<number, MountKind>()
  readonly #plain = new Set<number>()
  readonly #local = new Set<number>()
  readonly #context: Context
  readonly #scratchAt: number

  constructor(context: Context, scratchAt: number) {
    this.#context = context
    this.#scratchAt = scratchAt
  }

  /** The kind of mount `mount` (statx mount id), asked of `fd` the first time. */
  kindOf(mount: number, fd: number): MountKind {
    const known = this.#kinds.get(mount)
    if (known !== undefined) return known
    const at = this.#scratchAt + OTHER_AT
    let kind: MountKind = 'disk'
    // f_type is the first word (a long on 64-bit machines).
    if (this.#context.statfs(fd, at) >= 0) {
      const type = this.#context.view.getUint32(at, true)
      kind = KINDS.get(type) ?? 'disk'
      if (PLAIN.has(type)) this.#plain.add(mount)
      if (LOCAL.has(type)) this.#local.add(mount)
    }
    this.#kinds.set(mount, kind)
    return kind
  }

  /** Nothing of `mount`, whose kind was asked for, changes without an event on this host. */
  isLocal(mount: number): boolean {
    return this.#local.has(mount)
  }

  /** The file behind `fd` is on an overlayfs. */
  isOverlay(fd: number): boolean {
    const at = this.#scratchAt + OTHER_AT
    return this.#context.statfs(fd, at) >= 0 && this.#context.view.getUint32(at, true) === OVERLAYFS
  }

  /** A file of `mount`, whose kind was asked for, is the same to all who open it, now or later. */
  isPlain(mount: number): boolean {
    return this.#plain.has(mount)
  }
}
