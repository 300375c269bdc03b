/** The trees the bench reads and writes; their numbers are those of test/bench/rows.h. */
import {
  chmodSync,
  closeSync,
  existsSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'

const FOLDERS = 10
const FILES_EACH = 1000
const LISTED = 1000
const DATA_BYTES = 64 * 1024 * 1024
const COLD_BYTES = 512 * 1024 * 1024
const PAGE = 4096
const CHUNK = 1024 * 1024

/**
 * Small files, a directory to list, a file to read, one to write: for a file system in memory. The two large
 * files are made once, in `large`, and linked: where in memory a file's pages lie makes large reads up to
 * half as fast again, so everybody who is compared must have the same.
 */
export function makeMemoryTree(root: string, large: string): void {
  for (let folder = 0; folder < FOLDERS; folder++) {
    const path = join(root, `folder-${folder}`)
    mkdirSync(path)
    for (let i = 0; i < FILES_EACH; i++) writeFileSync(join(path, `file-${number4(i)}`), 'small\n')
  }
  mkdirSync(join(root, 'list'))
  for (let i = 0; i < LISTED; i++) writeFileSync(join(root, 'list', `entry-${number4(i)}`), '')
  mkdirSync(join(root, 'work'))
  chmodSync(join(root, 'work'), 0o777)
  for (const name of ['data', 'out']) {
    const file = join(large, name)
    if (!existsSync(file)) closeSync(writePattern(file, DATA_BYTES))
    linkSync(file, join(root, name))
  }
}

/** One large file, `cold`, whose cache can be dropped: for a file system on a disk. */
export function makeDiskTree(root: string): string {
  const file = join(root, 'cold')
  const fd = writePattern(file, COLD_BYTES)
  // Dirty pages cannot be dropped.
  fsyncSync(fd)
  closeSync(fd)
  return file
}

function number4(value: number): string {
  return String(value).padStart(4, '0')
}

/** A new file, open: every page begins with its offset, which the load generator checks. */
function writePattern(path: string, bytes: number): number {
  const fd = openSync(path, 'w')
  const chunk = new Uint8Array(CHUNK).fill(0x5a)
  const view = new DataView(chunk.buffer)
  for (let at = 0; at < bytes; at += CHUNK) {
    for (let page = 0; page < CHUNK; page += PAGE) view.setBigUint64(page, BigInt(at + page), true)
    writeSync(fd, chunk)
  }
  return fd
}
