/**
 * How many CPUs stand idle, by the number of runnable threads of the whole machine: the fourth field of
 * /proc/loadavg (Linux fs/proc/loadavg.c, `nr_running`). What others run on CPUs that we may not use counts
 * as well: the error is on the side of too few.
 */
import { closeSync, openSync, readSync } from 'node:fs'
import { availableParallelism } from 'node:os'

/** How long a look holds good. */
const LOOK_MS = 1

const SPACE = 0x20
const ZERO = 0x30

/** The fourth field's first number, or -1. */
export function runnable(loadavg: Uint8Array, bytes: number): number {
  let at = 0
  for (let spaces = 0; spaces < 3 && at < bytes; at++) if (loadavg[at] === SPACE) spaces++
  let value = -1
  for (; at < bytes; at++) {
    const digit = loadavg[at]! - ZERO
    if (digit < 0 || digit > 9) break
    value = Math.max(value, 0) * 10 + digit
  }
  return value
}

export class IdleCpus {
  readonly #fd: number
  readonly #cpus: number
  readonly #text = new Uint8Array(64)
  #lookedAt = Number.NEGATIVE_INFINITY
  /** Threads of others that run or wait for a CPU. */
  #others = 0

  private constructor(fd: number, cpus: number) {
    this.#fd = fd
    this.#cpus = cpus
  }

  /** Before the daemon is isolated. undefined: nothing to find out, or no way to. */
  static open(path = '/proc/loadavg', cpus = availableParallelism()): IdleCpus | undefined {
    if (cpus < 2) return undefined
    try {
      return new IdleCpus(openSync(path, 'r'), cpus)
    } catch {
      return undefined
    }
  }

  close(): void {
    closeSync(this.#fd)
  }

  /** Threads that could work beside the calling one, each on a CPU of its own; `busy` of them do already. */
  helpers(busy: number): number {
    const now = performance.now()
    if (now - this.#lookedAt >= LOOK_MS) {
      this.#lookedAt = now
      const count = runnable(this.#text, readSync(this.#fd, this.#text, 0, this.#text.length, 0))
      this.#others = count < 0 ? this.#cpus : Math.max(count - 1 - busy, 0)
    }
    return Math.max(this.#cpus - 1 - this.#others, 0)
  }
}
