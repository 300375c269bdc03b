/**
 * File handles of nodes (name_to_handle_at(2), open_by_handle_at(2)): a way to an inode that needs
 * neither a name nor an open descriptor. Opening by handle takes CAP_DAC_READ_SEARCH and, for each
 * mount, an ordinary descriptor on it, which is opened from a node there and kept while a node of that
 * mount has a handle.
 */
import { Errno, errnoName } from '../../../protocol/errno.js'
import {
  O_DIRECTORY,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_PATH,
  S_IFDIR,
  S_IFREG,
} from '../../../protocol/linux/constants.js'
import { type Context, EMPTY_PATH } from '../../native/context.js'
import type { HostMount, HostNode } from './node.js'
import type { InodeFileHandles } from './options.js'
import { OTHER_AT } from './scratch.js'

/** u32 handle_bytes and i32 handle_type come before the handle itself. */
const HEAD_BYTES = 8
/** Descriptors on mounts at most; nodes of further mounts do without handles. */
const MAX_MOUNTS = 64

/** What --inode-file-handles=mandatory is refused with. */
export function handlesRefused(sharedDir: string, fault: number): string {
  const option = '--inode-file-handles=mandatory'
  if (fault === -Errno.EPERM || fault === -Errno.EACCES)
    return `${option} needs the capability CAP_DAC_READ_SEARCH: run with it, or give prefer`
  if (fault === -Errno.EOPNOTSUPP || fault === -Errno.EOVERFLOW)
    return `the file system of the shared directory ${sharedDir} has no file handles: ${option} cannot be, give prefer`
  return `file handles of the shared directory ${sharedDir} do not work (${errnoName(fault)}): ${option} cannot be, give prefer`
}

export class FileHandles {
  readonly mode: InodeFileHandles
  readonly #context: Context
  readonly #at: number
  readonly #arena: Buffer
  #mountFds = 0
  /** Why `read` gave nothing: -errno. */
  fault = 0

  constructor(context: Context, scratchAt: number, mode: InodeFileHandles) {
    this.#context = context
    this.#at = scratchAt + OTHER_AT
    const { buffer, byteOffset, byteLength } = context.bytes
    this.#arena = Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength)
    this.mode = mode
  }

  /** Descriptors on mounts. */
  get openDescriptors(): number {
    return this.#mountFds
  }

  /**
   * Takes the handle of the share's root, to see whether it can be opened by it. 0 (also where that is
   * no matter), or with `mandatory` -errno: EOPNOTSUPP the file system has no handles; EPERM no
   * CAP_DAC_READ_SEARCH.
   */
  start(root: HostNode): number {
    if (this.mode === 'never') return 0
    const handle = this.read(root.fd, EMPTY_PATH, root.mount)
    const fault = handle === undefined ? this.fault : this.give(root, handle, root.fd)
    if (fault < 0) root.mount.withoutHandles = true
    return this.mode === 'mandatory' ? fault : 0
  }

  /**
   * The handle of `nameAt` (or EMPTY_PATH) at `fd`, which should be on `mount`; undefined where there
   * is none to be had, with the reason in `fault`.
   */
  read(fd: number, nameAt: number, mount: HostMount): string | undefined {
    this.fault = -Errno.EOPNOTSUPP
    if (this.mode === 'never' || mount.withoutHandles) return undefined
    const at = this.#at
    const answer = this.#context.nameToHandle(fd, nameAt, at)
    if (answer === mount.id)
      return this.#arena.toString(
        'latin1',
        at,
        at + HEAD_BYTES + this.#context.view.getUint32(at, true),
      )
    // Another mount: something was mounted there a moment ago.
    this.fault = answer >= 0 ? -Errno.ESTALE : answer
    if (answer === -Errno.EOPNOTSUPP) mount.withoutHandles = true
    return undefined
  }

  /**
   * Makes `handle` a way to `node`; `fd` is on the node or on a directory of the same mount. 0, or
   * -errno and nothing is changed.
   */
  give(node: HostNode, handle: string, fd: number): number {
    const { mount } = node
    if (mount.handleFd < 0) {
      const fault = this.#openMount(node, handle, fd)
      if (fault < 0) return fault
    }
    if (node.handle === undefined) mount.handleUsers++
    node.handle = handle
    return 0
  }

  /** At the loss of the node's descriptor: takes its handle, if it has none and one can be had. */
  take(node: HostNode): void {
    if (node.handle !== undefined || node.mount.withoutHandles) return
    // Nothing else may be opened: with a FIFO that could wait, with a device act.
    if (node.mount.handleFd < 0 && node.type !== S_IFDIR && node.type !== S_IFREG) return
    const handle = this.read(node.fd, EMPTY_PATH, node.mount)
    if (handle !== undefined) this.give(node, handle, node.fd)
  }

  drop(node: HostNode): void {
    if (node.handle === undefined) return
    node.handle = undefined
    const { mount } = node
    mount.handleUsers--
    if (mount.handleUsers > 0) return
    // A mount that nobody needs is not kept busy.
    this.#context.close(mount.handleFd)
    mount.handleFd = -1
    this.#mountFds--
  }

  /** O_PATH descriptor on the inode of the node's handle, or -errno: ESTALE it is gone. */
  open(node: HostNode): number {
    const { handle, mount } = node
    if (handle === undefined) return -Errno.ESTALE
    return this.#open(mount.handleFd, handle)
  }

  #open(mountFd: number, handle: string): number {
    this.#arena.write(handle, this.#at, 'latin1')
    return this.#context.openByHandle(mountFd, this.#at, O_PATH | O_NOFOLLOW)
  }

  /** A descriptor on the node's mount, shown to work with `handle`. */
  #openMount(node: HostNode, handle: string, fd: number): number {
    const { mount } = node
    if (this.#mountFds >= MAX_MOUNTS) return -Errno.ENFILE
    // A regular file may serve as well as a directory; O_NONBLOCK: a lease is not waited for.
    let mountFd = this.#context.reopen(fd, O_DIRECTORY)
    if (mountFd === -Errno.ENOTDIR) {
      // A device or a FIFO that is mounted by itself: nobody's business to open it.
      if (node.type !== S_IFREG) return -Errno.EOPNOTSUPP
      mountFd = this.#context.reopen(fd, O_NONBLOCK)
    }
    if (mountFd < 0) return mountFd
    const opened = this.#open(mountFd, handle)
    if (opened < 0) {
      this.#context.close(mountFd)
      if (opened !== -Errno.EMFILE && opened !== -Errno.ENFILE && opened !== -Errno.ESTALE)
        mount.withoutHandles = true
      return opened
    }
    this.#context.close(opened)
    mount.handleFd = mountFd
    this.#mountFds++
    return 0
  }
}
