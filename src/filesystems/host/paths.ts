/**
 * Where a descriptor lies in the share, by what the kernel remembers of its path (/proc/self/fd). That is a
 * hint: it counts only when the path, walked from the share's root without leaving it, leads to the same inode.
 */
import { Errno } from '../../../protocol/errno.js'
import {
  O_NOFOLLOW,
  O_PATH,
  RESOLVE_BENEATH,
  RESOLVE_NO_MAGICLINKS,
  RESOLVE_NO_SYMLINKS,
} from '../../../protocol/linux/constants.js'
import { statx } from '../../../protocol/linux/statx.js'
import { EMPTY_PATH } from '../../native/context.js'
import { ENTRIES_AT, STAT2_AT } from './scratch.js'
import { STATX_WANTED } from './stat.js'
import type { HostState } from './state.js'

const MAX_PATH = 4096
const STAYS_INSIDE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
/** What the kernel adds to the path of a file without names. */
const DELETED = ' (deleted)'

const F = statx.f

/** Puts `text` (bytes as characters) and a NUL at `at`. */
export function putBytes(host: HostState, at: number, text: string): void {
  const { bytes } = host.context
  for (let i = 0; i < text.length; i++) bytes[at + i] = text.charCodeAt(i)
  bytes[at + text.length] = 0
}

export function getBytes(host: HostState, at: number, length: number): string {
  const { buffer, byteOffset } = host.context.bytes
  return Buffer.from(buffer as ArrayBuffer, byteOffset + at, length).toString('latin1')
}

/** O_PATH descriptor of `path` below the root, through no symbolic link. Errors: those of openat2(2). */
export function openBeneath(host: HostState, path: string): number {
  const at = host.scratchAt + ENTRIES_AT
  if (path.length >= MAX_PATH) return -Errno.ENAMETOOLONG
  putBytes(host, at, path)
  const open = (): number =>
    host.context.openat(host.nodes.root.fd, at, O_PATH | O_NOFOLLOW, 0, STAYS_INSIDE)
  let fd = open()
  if ((fd === -Errno.EMFILE || fd === -Errno.ENFILE) && host.nodes.relieve(undefined)) fd = open()
  return fd
}

function linkOf(host: HostState, fd: number): string {
  const at = host.scratchAt + ENTRIES_AT
  const length = host.context.fdLink(fd, at, MAX_PATH)
  return length <= 0 ? '' : getBytes(host, at, length)
}

/** The kernel's path of `fd`, from the root on; '' when it is not below it. */
function pathBelow(host: HostState, fd: number): string {
  const root = linkOf(host, host.nodes.root.fd)
  const link = linkOf(host, fd)
  const prefix = root.endsWith('/') ? root : `${root}/`
  return root !== '' && link.startsWith(prefix) ? link.slice(prefix.length) : ''
}

/** A path that leads from the root to the file of `fd`, whose struct statx lies at `statAt`; '' if there is none. */
export function confirmedPath(host: HostState, fd: number, statAt: number): string {
  const path = pathBelow(host, fd)
  if (path === '') return ''
  const other = openBeneath(host, path)
  if (other < 0) return ''
  const { context, scratchAt } = host
  const at = scratchAt + STAT2_AT
  const fault = context.statx(other, EMPTY_PATH, 0, STATX_WANTED, at)
  context.close(other)
  return fault >= 0 && sameInode(context.view, statAt, at) ? path : ''
}

function sameInode(view: DataView, a: number, b: number): boolean {
  return (
    F.stx_ino.get(view, a) === F.stx_ino.get(view, b) &&
    F.stx_dev_major.get(view, a) === F.stx_dev_major.get(view, b) &&
    F.stx_dev_minor.get(view, a) === F.stx_dev_minor.get(view, b)
  )
}

/**
 * The file of `fd`, got by a file handle, is one of the share's: it has a path there, or had its last one
 * there. The latter rests on the kernel's word alone.
 */
export function isInside(host: HostState, fd: number, statAt: number): boolean {
  if (F.stx_nlink.get(host.context.view, statAt) > 0) return confirmedPath(host, fd, statAt) !== ''
  const path = pathBelow(host, fd)
  return path.endsWith(DELETED) && path.length > DELETED.length
}
