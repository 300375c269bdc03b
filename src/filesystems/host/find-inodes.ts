/**
 * Looks for names of inodes in the whole share. For files that lost the name they were known by and have
 * another one: the kernel's path of them is the lost one.
 */
import { Errno } from '../../../protocol/errno.js'
import { isDotName } from '../../../protocol/fuse/names.js'
import { O_DIRECTORY, O_NOFOLLOW, RESOLVE_BENEATH } from '../../../protocol/linux/constants.js'
import { getBytes, putBytes } from './paths.js'
import type { HostNode } from './node.js'
import { ENTRIES_AT, ENTRIES_BYTES, NAME_AT } from './scratch.js'
import { STATX_WANTED } from './stat.js'
import type { HostState } from './state.js'

/** The guest stands still meanwhile: a large tree is not gone through to the end. */
const LIMIT_MS = 10_000
const MAX_PATH = 4095
const DT_DIR = 4
const DT_UNKNOWN = 0
/** struct linux_dirent64. */
const INO_HIGH = 4
const RECLEN = 16
const TYPE = 18
const NAME = 19

/** Paths, from the root on, of those of `wanted` that are found. */
export function findInodes(
  host: HostState,
  wanted: ReadonlySet<HostNode>,
): ReadonlyMap<HostNode, string> {
  const found = new Map<HostNode, string>()
  const numbers = new Set([...wanted].map(node => node.inoHigh * 0x1_0000_0000 + node.inoLow))
  const limit = performance.now() + LIMIT_MS
  const folders = ['']
  while (folders.length > 0 && found.size < wanted.size && performance.now() < limit) {
    const folder = folders.pop()!
    const fd = openFolder(host, folder)
    if (fd < 0) continue
    for (const entry of entries(host, fd)) {
      const path = `${folder}${entry.name}`
      if (path.length > MAX_PATH) continue
      if (entry.type === DT_DIR || entry.type === DT_UNKNOWN) folders.push(`${path}/`)
      if (!numbers.has(entry.ino)) continue
      putBytes(host, host.scratchAt + NAME_AT, entry.name)
      const nameAt = host.scratchAt + NAME_AT
      if (host.context.statx(fd, nameAt, 0, STATX_WANTED, host.statAt) < 0) continue
      const node = host.nodes.find(host.statAt)
      if (node !== undefined && wanted.has(node) && !found.has(node)) found.set(node, path)
    }
    host.context.close(fd)
  }
  return found
}

/** `folder` ends with a slash, or is empty for the root. */
function openFolder(host: HostState, folder: string): number {
  const at = host.scratchAt + ENTRIES_AT
  putBytes(host, at, folder === '' ? '.' : folder)
  const open = (): number =>
    host.context.openat(host.nodes.root.fd, at, O_DIRECTORY | O_NOFOLLOW, 0, RESOLVE_BENEATH)
  const fd = open()
  const full = fd === -Errno.EMFILE || fd === -Errno.ENFILE
  return full && host.nodes.relieve(undefined) ? open() : fd
}

interface Entry {
  readonly name: string
  readonly type: number
  readonly ino: number
}

/** All entries of a directory but `.` and `..`. */
function* entries(host: HostState, fd: number): Iterable<Entry> {
  const { context, scratchAt } = host
  const { view, bytes } = context
  const start = scratchAt + ENTRIES_AT
  for (;;) {
    const got = context.getdents64(fd, start, ENTRIES_BYTES, 0, 0, 0)
    if (got <= 0) return
    for (let at = start; at < start + got; at += view.getUint16(at + RECLEN, true)) {
      const length = bytes.indexOf(0, at + NAME) - (at + NAME)
      if (isDotName(bytes, at + NAME, length)) continue
      yield {
        name: getBytes(host, at + NAME, length),
        type: bytes[at + TYPE]!,
        ino: view.getUint32(at + INO_HIGH, true) * 0x1_0000_0000 + view.getUint32(at, true),
      }
    }
  }
}
