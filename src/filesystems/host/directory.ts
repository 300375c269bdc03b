/** Reading directories. */
import { Errno } from '../../../protocol/errno.js'
import { O_DIRECTORY, S_IFDIR } from '../../../protocol/linux/constants.js'
import { isDotName } from '../../../protocol/fuse/names.js'
import type { Outcome } from '../../vfs/filesystem.js'
import type { OpenReply } from '../../vfs/replies.js'
import type { DirectorySink } from '../../vfs/request.js'
import { HostHandle } from './handles.js'
import type { HostNode } from './node.js'
import { ENTRIES_AT, ENTRIES_BYTES } from './scratch.js'
import { type HostState, UNKNOWN } from './state.js'
import { STATX_WANTED } from './stat.js'

/** Bytes of linux_dirent64 before the name. */
const NAME_OFFSET = 19
const RECLEN_OFFSET = 16
const TYPE_OFFSET = 18

export function opendir(host: HostState, node: HostNode, opened: OpenReply): Outcome {
  if (node.type !== S_IFDIR) return -Errno.ENOTDIR
  if (host.full) return -Errno.ENFILE
  const fd = host.nodes.reopen(node, O_DIRECTORY)
  if (fd < 0) return fd
  const kind = host.mounts.kindOf(node.mount.id, fd)
  const fh = host.addHandle(new HostHandle(node, fd, true, kind, false, 0))
  if (fh < 0) return fh
  opened.fh = fh
  const { cache } = host.options
  opened.cacheDir = cache === 'always' || cache === 'metadata'
  opened.keepCache = opened.cacheDir
  return 0
}

export function readdir(
  host: HostState,
  fh: number,
  cookieLow: number,
  cookieHigh: number,
  sink: DirectorySink,
): Outcome {
  const handle = host.handle(fh, true)
  if (handle === undefined) return host.noHandle(fh)
  const { context } = host
  const from = host.scratchAt + ENTRIES_AT
  let seek = handle.cookieLow !== cookieLow || handle.cookieHigh !== cookieHigh ? 1 : 0
  let low = cookieLow
  let high = cookieHigh
  for (;;) {
    const got = context.getdents64(handle.fd, from, entriesWanted(sink), seek, low, high)
    if (got < 0) return got
    if (got === 0) break
    seek = 0
    const stopped = addEntries(host, handle, from, from + got, sink)
    if (stopped) return 0
    low = handle.cookieLow
    high = handle.cookieHigh
    // Another round costs little when the directory has ended and much room is left.
    if (!sink.fits(255)) return 0
  }
  return 0
}

/** How much to ask of the host: a reply entry with attributes takes several times its dirent. */
function entriesWanted(sink: DirectorySink): number {
  return sink.plus ? ENTRIES_BYTES / 4 : ENTRIES_BYTES / 2
}

/** Adds the entries in [at, end). True when the sink is full before the last of them. */
function addEntries(
  host: HostState,
  handle: HostHandle,
  start: number,
  end: number,
  sink: DirectorySink,
): boolean {
  const { view, bytes } = host.context
  for (let at = start; at < end; ) {
    const recordBytes = view.getUint16(at + RECLEN_OFFSET, true)
    const nameAt = at + NAME_OFFSET
    const nameBytes = bytes.indexOf(0, nameAt) - nameAt
    if (!sink.fits(nameBytes)) {
      // The rest is read again: the descriptor's position is past it.
      markLost(handle)
      return true
    }
    const low = view.getUint32(at + 8, true)
    const high = view.getUint32(at + 12, true)
    const withEntry =
      sink.plus &&
      !isDotName(bytes, nameAt, nameBytes) &&
      fillEntry(host, handle, nameAt, nameBytes, sink)
    sink.add(
      nameAt,
      nameBytes,
      bytes[at + TYPE_OFFSET]!,
      view.getUint32(at, true),
      view.getUint32(at + 4, true),
      low,
      high,
      withEntry,
    )
    handle.cookieLow = low
    handle.cookieHigh = high
    at += recordBytes
  }
  return false
}

/** No cookie of the host is this one: the next readdir seeks. */
function markLost(handle: HostHandle): void {
  handle.cookieLow = -1
  handle.cookieHigh = -1
}

/** Takes the lookup of READDIRPLUS; false when the name is gone meanwhile. */
function fillEntry(
  host: HostState,
  handle: HostHandle,
  nameAt: number,
  nameBytes: number,
  sink: DirectorySink,
): boolean {
  const { node, fd } = handle
  const { entry } = sink
  const kept = host.fillKeptEntry(entry, node, nameAt, nameBytes)
  if (kept !== UNKNOWN) return kept >= 0
  const learns = node.kept !== undefined
  const answer = host.context.statx(fd, nameAt, 0, STATX_WANTED, host.statAt)
  if (answer < 0 || host.fillEntry(entry, node, nameAt, nameBytes, fd, nameAt) < 0) return false
  host.metadata.learnName(node, nameAt, nameBytes, host.nodes.get(entry.nodeid)!, learns)
  return true
}
