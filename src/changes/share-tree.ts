/** The share's tree as the watch sees it: directories by path and by key, opened through no symbolic link. */
import { closeSync, openSync } from 'node:fs'
import { Errno } from '../../protocol/errno.js'
import {
  O_DIRECTORY,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_PATH,
  RESOLVE_BENEATH,
  RESOLVE_NO_MAGICLINKS,
  RESOLVE_NO_SYMLINKS,
} from '../../protocol/linux/constants.js'
import { LINUX_DIRENT64_NAME_OFFSET, linux_dirent64 } from '../../protocol/linux/dirent.js'
import { type Context, EMPTY_PATH } from '../native/context.js'

const STAYS_INSIDE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS

/** Arena: a path; struct statfs; a file handle; directory entries. */
const PATH_AT = 0
const STATFS_AT = 4096
const HANDLE_AT = 4224
const ENTRIES_AT = 8192
const ENTRIES_BYTES = 65_536
export const TREE_ARENA_BYTES = ENTRIES_AT + ENTRIES_BYTES
const STATFS_FSID = 7 * 8
const PATH_MAX = 4096

/** Paths and names are bytes as characters 0 to 255. */
export class ShareTree {
  readonly #context: Context
  readonly #arena: Buffer
  #root = -1

  constructor(context: Context) {
    this.#context = context
    this.#arena = Buffer.from(context.raw.arena)
  }

  /** The share's root, as it is found now. Errors: those of open(2), thrown. */
  open(path: string): void {
    this.#root = openSync(path, O_DIRECTORY)
  }

  close(): void {
    if (this.#root >= 0) closeSync(this.#root)
    this.#root = -1
  }

  /** An ordinary descriptor on a directory, the caller's; '.' is the root. Errors: those of openat2(2). */
  openDirectory(path: string): number {
    return this.#open(path, O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK)
  }

  exists(path: string): boolean {
    const fd = this.#open(path, O_PATH | O_NOFOLLOW)
    if (fd >= 0) this.#context.close(fd)
    return fd >= 0
  }

  /** The directory of that key is there. */
  isAt(path: string, key: string): boolean {
    const fd = this.openDirectory(path)
    if (fd < 0) return false
    const there = this.keyOf(fd)
    this.#context.close(fd)
    return there === key
  }

  /** As events name the inode (protocol/linux/fanotify.ts); undefined where there are no file handles. */
  keyOf(fd: number): string | undefined {
    const context = this.#context
    if (context.statfs(fd, STATFS_AT) < 0) return undefined
    if (context.nameToHandle(fd, EMPTY_PATH, HANDLE_AT) < 0) return undefined
    const handleEnd = HANDLE_AT + 8 + context.view.getUint32(HANDLE_AT, true)
    return (
      this.#arena.toString('latin1', STATFS_AT + STATFS_FSID, STATFS_AT + STATFS_FSID + 8) +
      this.#arena.toString('latin1', HANDLE_AT, handleEnd)
    )
  }

  /** Hands every entry of the directory to `take`, with its DT_*. 0, or -errno of getdents64(2). */
  list(fd: number, take: (name: string, type: number) => void): number {
    const { view } = this.#context
    const D = linux_dirent64.f
    for (;;) {
      const got = this.#context.getdents64(fd, ENTRIES_AT, ENTRIES_BYTES, 0, 0, 0)
      if (got <= 0) return got
      for (let at = ENTRIES_AT; at < ENTRIES_AT + got; at += D.d_reclen.get(view, at)) {
        const nameAt = at + LINUX_DIRENT64_NAME_OFFSET
        const name = this.#arena.toString('latin1', nameAt, this.#arena.indexOf(0, nameAt))
        if (name !== '.' && name !== '..') take(name, D.d_type.get(view, at))
      }
    }
  }

  #open(path: string, flags: number): number {
    if (path.length >= PATH_MAX) return -Errno.ENAMETOOLONG
    this.#arena.write(path, PATH_AT, 'latin1')
    this.#arena[PATH_AT + path.length] = 0
    return this.#context.openat(this.#root, PATH_AT, flags, 0, STAYS_INSIDE)
  }
}
