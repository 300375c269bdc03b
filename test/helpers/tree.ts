/** Trees of many files: made on the host, walked and removed by a guest's requests. */
import { closeSync, mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { concat, u32s, u64 } from './front-end.js'
import { type FuseClient, text } from './fuse-client.js'

const UNLINK = 10
const RMDIR = 11
const GETATTR = 3
const S_IFDIR = 0o040000
/** struct fuse_entry_out, then the head of struct fuse_dirent. */
const ENTRY_BYTES = 128
const HEAD_BYTES = 24
/** st_mode in the entry's attributes. */
const MODE_AT = 40 + 60

/** `folders` directories of `files` empty files each, ten directories deep in places. */
export function makeTree(root: string, folders: number, files: number): void {
  mkdirSync(root)
  for (let d = 0; d < folders; d++) {
    const depth = 1 + (d % 10)
    const sub = join(
      root,
      `t${d % 7}`,
      ...Array.from({ length: depth }, (_, i) => `s${i}`),
      `d${d}`,
    )
    mkdirSync(sub, { recursive: true })
    for (let i = 0; i < files; i++) closeSync(openSync(join(sub, `file-${i}.txt`), 'w'))
  }
}

export interface TreeEntry {
  readonly name: string
  readonly nodeid: number
  readonly directory: boolean
}

/** What READDIRPLUS says of a directory but `.` and `..`; every entry has one more lookup. */
export function* entriesOf(client: FuseClient, directory: number): Generator<TreeEntry> {
  const fh = client.opendir(directory)
  let cookie = 0n
  for (;;) {
    const bytes = client.readdir(directory, fh, cookie, 65536, true)
    if (bytes.length === 0) break
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    for (let at = 0; at < bytes.length; ) {
      const nodeid = Number(view.getBigUint64(at, true))
      const head = at + ENTRY_BYTES
      const nameBytes = view.getUint32(head + 16, true)
      const name = Buffer.from(bytes.subarray(head + HEAD_BYTES, head + HEAD_BYTES + nameBytes))
      cookie = view.getBigUint64(head + 8, true)
      const mode = view.getUint32(at + MODE_AT, true)
      at = head + Math.ceil((HEAD_BYTES + nameBytes) / 8) * 8
      if (nodeid !== 0)
        yield { name: name.toString(), nodeid, directory: (mode & 0o170000) === S_IFDIR }
    }
  }
  client.release(directory, fh, true)
}

export function getattr(client: FuseClient, nodeid: number): number {
  return client.request(GETATTR, nodeid, concat(u32s(0, 0), u64(0n)))!.error
}

/** Sees every file and directory below `directory`; lookups are left for `visit` to give back. */
export function walk(
  client: FuseClient,
  directory: number,
  visit: (entry: TreeEntry) => void,
): number {
  let count = 0
  const below = [directory]
  for (let next = below.pop(); next !== undefined; next = below.pop())
    for (const entry of entriesOf(client, next)) {
      count++
      visit(entry)
      if (entry.directory) below.push(entry.nodeid)
    }
  return count
}

/** rm -rf of what is below `directory`. `gone` hears of each node that lost its name. */
export function removeTree(
  client: FuseClient,
  directory: number,
  gone: (nodeid: number) => void,
): number {
  let count = 0
  // The names are taken first: a directory that is read while it shrinks skips some.
  for (const entry of [...entriesOf(client, directory)]) {
    if (entry.directory) count += removeTree(client, entry.nodeid, gone)
    client.do(entry.directory ? RMDIR : UNLINK, directory, text(entry.name))
    count++
    gone(entry.nodeid)
  }
  return count
}
