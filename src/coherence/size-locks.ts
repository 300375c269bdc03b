/**
 * Who changes a file's size, and who makes it longer for a moment to map it (src/dax): the second cuts it to what it
 * was, so that nobody may add anything meanwhile. Locks of the version table's file (F_OFD_SETLK): byte
 * FIRST_BYTE + n is for the inodes of bucket n; whoever writes has it shared, who lengthens has it alone. The
 * kernel drops the locks of a daemon that dies.
 */
import { MOST_GUESTS } from '../../protocol/version-table/layout.js'
import type { Context } from '../native/context.js'
import type { InodeKey } from '../vfs/identities.js'
import type { Change } from './change.js'
import type { VersionTable } from './version-table.js'

const F_OFD_SETLK = 37
const F_RDLCK = 0
const F_WRLCK = 1
const F_UNLCK = 2
const FIRST_BYTE = 2 * (MOST_GUESTS + 3)
/** Writes take microseconds: so long is waited for them. */
const SPIN_MS = 5

export class SizeLocks {
  readonly #context: Context
  readonly #fd: number
  readonly #table: VersionTable
  /** By byte: how many changes under way share it. */
  readonly #shared = new Map<number, number>()

  constructor(context: Context, tableFd: number, table: VersionTable) {
    this.#context = context
    this.#fd = tableFd
    this.#table = table
  }

  #byteOf(key: InodeKey): number {
    this.#table.seek(key)
    return FIRST_BYTE + this.#table.bucket
  }

  #lock(byte: number, type: number): boolean {
    return this.#context.ofdLock(this.#fd, F_OFD_SETLK, type, byte, 1, 0) >= 0
  }

  /** Before data of its files is changed; `unshare` follows. False: one is lengthened at this moment. */
  share(change: Change): boolean {
    // Nobody has a window.
    if (!change.data || !this.#table.windows) return true
    for (let i = 0; i < change.count; i++) {
      const byte = this.#byteOf(change.keys[i]!)
      const count = this.#shared.get(byte) ?? 0
      if (count === 0 && !this.#lock(byte, F_RDLCK)) {
        this.unshare(change)
        return false
      }
      this.#shared.set(byte, count + 1)
      change.locked = i + 1
    }
    return true
  }

  unshare(change: Change): void {
    for (let i = 0; i < change.locked; i++) {
      const byte = this.#byteOf(change.keys[i]!)
      const count = this.#shared.get(byte)! - 1
      if (count > 0) {
        this.#shared.set(byte, count)
        continue
      }
      this.#shared.delete(byte)
      this.#lock(byte, F_UNLCK)
    }
    change.locked = 0
  }

  /** Until `release` nobody changes the data of the file. False: somebody is doing so, and not just for a moment. */
  alone(key: InodeKey): boolean {
    const byte = this.#byteOf(key)
    if (this.#shared.has(byte)) return false
    const until = performance.now() + SPIN_MS
    while (!this.#lock(byte, F_WRLCK)) if (performance.now() > until) return false
    return true
  }

  release(key: InodeKey): void {
    this.#lock(this.#byteOf(key), F_UNLCK)
  }
}
