/**
 * Random changes to a small tree, by host processes and by a guest, and what a guest is told right after each:
 * the truth is lstat(2), asked at that moment.
 */
import { execFileSync } from 'node:child_process'
import {
  appendFileSync,
  chmodSync,
  chownSync,
  type BigIntStats,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  renameSync,
  rmdirSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { u32s, u64, concat } from '../helpers/front-end.js'
import { type FuseClient, text } from '../helpers/fuse-client.js'

const FOLDERS = ['a', 'b']
const NAMES = ['one', 'two', 'three', 'four', 'a rather longer name.txt']

/** Mulberry32: the same numbers for the same seed. */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

type Change = (path: string, other: string) => void

/** Every kind of change a process of the host can make without a mapping. */
export const HOST_CHANGES: Readonly<Record<string, Change>> = {
  write: path => writeFileSync(path, 'x'.repeat(17)),
  append: path => appendFileSync(path, 'more'),
  truncate: path => truncateSync(path, 5),
  chmod: path => chmodSync(path, lstatSync(path).mode & 0o100 ? 0o644 : 0o755),
  chown: path => chownSync(path, lstatSync(path).uid === 0 ? 1 : 0, 2),
  utimes: path => utimesSync(path, 1_000_000_000, 1_100_000_000 + lstatSync(path).size),
  lutimes: path => lutimesSync(path, 1_000_000_000, 1_200_000_000),
  link: (path, other) => linkSync(path, other),
  unlink: path => unlinkSync(path),
  'rename away': (path, other) => {
    if (lstatSync(other, { throwIfNoEntry: false }) === undefined) renameSync(path, other)
  },
  'rename over': (path, other) => renameSync(path, other),
  'symlink replaced': (path, other) => {
    unlinkSync(path)
    symlinkSync(`target-${other.length}`, path)
  },
  symlink: path => symlinkSync('somewhere', path),
  mkdir: path => mkdirSync(path),
  'mkdir inside': path => mkdirSync(join(path, 'inner')),
  'rmdir inside': path => rmdirSync(join(path, 'inner')),
  rmdir: path => rmdirSync(path),
  create: path => writeFileSync(path, '', { flag: 'wx' }),
}

/** renameat2(2) with RENAME_EXCHANGE of two paths: mv has no option for it before coreutils 9.5. */
const RENAMEAT2 = { x64: 316, arm64: 276 }[process.arch as string]
const EXCHANGE = `exit(syscall(${RENAMEAT2}, -100, $ARGV[0], -100, $ARGV[1], 2) != 0)`

/** Slow ones: each starts a process. */
export const PROCESS_CHANGES: Readonly<Record<string, Change>> = {
  setxattr: path => run('setfattr', '-n', 'user.colour', '-v', `c${lstatSync(path).ctimeMs}`, path),
  exchange: (path, other) => run('perl', '-e', EXCHANGE, path, other),
  'another process writes': path => run('sh', '-c', 'echo more >> "$0"', path),
}

function run(command: string, ...args: string[]): void {
  execFileSync(command, args, { stdio: 'ignore' })
}

export interface Tally {
  looks: number
  changes: Record<string, number>
}

/** Makes `rounds` changes below `folder`, each followed by looks of the guest. Throws at the first wrong answer. */
export function changeAndLook(
  folder: string,
  client: FuseClient,
  rounds: number,
  seed: number,
  kinds: Readonly<Record<string, Change>>,
): Tally {
  const random = randomNumbers(seed)
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!
  const place = (): string => join(pick(FOLDERS), pick(NAMES))
  const tally: Tally = { looks: 0, changes: {} }
  for (const name of FOLDERS) mkdirSync(join(folder, name), { recursive: true })
  const folders = new Map(FOLDERS.map(name => [name, client.lookup(1, name)]))
  const look = (path: string, after: string): void => {
    const [dir, name] = path.split('/') as [string, string]
    tally.looks++
    checkLookup(client, folders.get(dir)!, name, join(folder, path), `seed ${seed}: ${after}`)
  }
  const names = Object.keys(kinds)
  // What can seldom be done may not have been in so many rounds: then it goes on, with that alone.
  const undone = (): string[] => names.filter(name => tally.changes[name] === undefined)
  for (let round = 0; round < rounds || (undone().length > 0 && round < rounds * 10); round++) {
    const path = place()
    const other = place()
    const kind = pick(round < rounds ? names : undone())
    // Warm, mostly.
    for (let i = Math.floor(random() * 6); i > 0; i--) look(path, 'before')
    if (random() < 0.3) look(other, 'before')
    if (random() < 0.2) useData(client, folders.get(path.split('/')[0]!)!, path.split('/')[1]!)
    try {
      kinds[kind]!(join(folder, path), join(folder, other))
      tally.changes[kind] = (tally.changes[kind] ?? 0) + 1
    } catch {
      // It cannot be done to what is there now: then nothing changed.
    }
    const after = `round ${round}, ${kind} of ${path} (${other})`
    const both = [path, other]
    for (const one of random() < 0.5 ? both : both.reverse()) look(one, after)
    const [dir] = path.split('/') as [string]
    checkAttributes(client, folders.get(dir)!, join(folder, dir), `seed ${seed}: ${after}`)
    // What stands still is asked for again and again.
    for (let i = 0; i < 3; i++) look(place(), after)
  }
  return tally
}

/** Reads what can be read, as the guest: access times may change. */
function useData(client: FuseClient, dir: number, name: string): void {
  const found = client.request(1, dir, text(name))!
  if (found.error < 0) return
  const nodeid = Number(found.body.getBigUint64(0, true))
  const type = found.body.getUint32(40 + 60, true) & 0o170000
  if (type === 0o100000) {
    const fh = client.open(nodeid, 0)
    client.read(nodeid, fh, 0, 4096)
    client.release(nodeid, fh)
  } else if (type === 0o040000) {
    const fh = client.opendir(nodeid)
    client.readdir(nodeid, fh, 0n, 4096, true)
    client.release(nodeid, fh, true)
  } else client.do(5, nodeid)
}

function checkLookup(
  client: FuseClient,
  dir: number,
  name: string,
  path: string,
  when: string,
): void {
  const reply = client.request(1, dir, text(name))!
  const truth = lstatSync(path, { bigint: true, throwIfNoEntry: false })
  if (truth === undefined) {
    if (reply.error !== -2) throw new Error(`${when}: LOOKUP of ${path} finds what is not there`)
    return
  }
  if (reply.error !== 0) throw new Error(`${when}: LOOKUP of ${path}: ${reply.error}`)
  const nodeid = Number(reply.body.getBigUint64(0, true))
  compare(reply.body, 40, truth, `${when}: LOOKUP of ${path}`)
  checkAttributes(client, nodeid, path, when)
  client.forget(nodeid, 1)
}

function checkAttributes(client: FuseClient, nodeid: number, path: string, when: string): void {
  const reply = client.do(3, nodeid, concat(u32s(0, 0), u64(0n)))
  compare(reply.body, 16, lstatSync(path, { bigint: true }), `${when}: GETATTR of ${path}`)
}

function compare(body: DataView, at: number, truth: BigIntStats, what: string): void {
  const u64At = (offset: number): bigint => body.getBigUint64(at + offset, true)
  const u32At = (offset: number): bigint => BigInt(body.getUint32(at + offset, true))
  const time = (sec: number, nsec: number): bigint => u64At(sec) * 1_000_000_000n + u32At(nsec)
  const told = {
    ino: u64At(0),
    size: u64At(8),
    // The host follows links on its way, and no event tells of that.
    ...(truth.isSymbolicLink() ? {} : { atimeNs: time(24, 48) }),
    mtimeNs: time(32, 52),
    ctimeNs: time(40, 56),
    mode: u32At(60),
    nlink: u32At(64),
    uid: u32At(68),
    gid: u32At(72),
  }
  for (const [field, value] of Object.entries(told))
    if (value !== truth[field as keyof typeof told])
      throw new Error(
        `${what}: ${field} is ${truth[field as keyof typeof told]}, the guest is told ${value}`,
      )
}
