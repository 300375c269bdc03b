/** What a front end does in a migration: the dirty log, the stop, the state through a pipe. */
import {
  closeSync,
  constants as files,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DriverRing, type FrontEnd, u32s } from './front-end.js'
import type { Rig } from './rig.js'

export const SET_DEVICE_STATE_FD = 42
export const CHECK_DEVICE_STATE = 43
export const SAVE = 0
export const LOAD = 1
export const NO_FD = 0x100n

/** A pipe: non-blocking ends that the caller closes. */
export function makePipe({ context }: FrontEnd): { read: number; write: number } {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-pipe-'))
  try {
    const path = join(folder, 'fifo')
    context.bytes.set(Buffer.from(`${path}\0`), 0)
    if (context.mknodat(-100, 0, 0o010600, 0, 0) < 0) throw new Error('mkfifo')
    const read = openSync(path, files.O_RDONLY | files.O_NONBLOCK)
    return { read, write: openSync(path, files.O_WRONLY | files.O_NONBLOCK) }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Sends SET_DEVICE_STATE_FD with `fd`, which stays the caller's; the reply. */
export function setStateFd(front: FrontEnd, direction: number, fd: number, phase = 0): bigint {
  front.send(SET_DEVICE_STATE_FD, u32s(direction, phase), [fd])
  return front.receive()!.payload.getBigUint64(0, true)
}

export function checkState(front: FrontEnd): bigint {
  return front.get(CHECK_DEVICE_STATE)
}

/** Stops every ring: the avail indices to go on from. */
export function stopRings(rig: Rig): number[] {
  return rig.front.rings.map(ring => ring.stop())
}

export function startRings(rig: Rig, bases: readonly number[]): void {
  for (const [index, ring] of rig.front.rings.entries()) ring.start(bases[index]!)
}

/** Reads the state of a stopped back end to the end; undefined when it says that it failed. */
export function saveState(rig: Rig): Buffer | undefined {
  const { read, write } = makePipe(rig.front)
  const answer = setStateFd(rig.front, SAVE, write)
  closeSync(write)
  if (answer !== NO_FD) {
    closeSync(read)
    return undefined
  }
  const parts: Buffer[] = []
  const part = Buffer.alloc(65536)
  const limit = performance.now() + 60_000
  for (;;) {
    rig.pump()
    let got: number
    try {
      got = readSync(read, part)
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'EAGAIN' || performance.now() > limit)
        throw cause
      continue
    }
    if (got === 0) break
    parts.push(Buffer.from(part.subarray(0, got)))
  }
  closeSync(read)
  return checkState(rig.front) === 0n ? Buffer.concat(parts) : undefined
}

/** Gives a state to a back end that has no ring up; true when it says that it took it. */
export function loadState(rig: Rig, state: Uint8Array, chunk = 65536): boolean {
  const { read, write } = makePipe(rig.front)
  const answer = setStateFd(rig.front, LOAD, read)
  closeSync(read)
  if (answer !== NO_FD) {
    closeSync(write)
    return false
  }
  try {
    for (let at = 0; at < state.length; ) {
      try {
        at += writeSync(write, state.subarray(at, at + chunk))
      } catch (cause) {
        const { code } = cause as NodeJS.ErrnoException
        if (code === 'EPIPE') break
        if (code !== 'EAGAIN') throw cause
      }
      rig.pump()
    }
  } finally {
    closeSync(write)
  }
  return checkState(rig.front) === 0n
}

/**
 * Moves a guest that is stopped from one rig to the other as QEMU does: memory, state, then the rings
 * where they were. False when the destination refuses; then nothing was started there.
 */
export function move(from: Rig, to: Rig, bases: readonly number[]): boolean {
  const state = saveState(from)
  if (state === undefined || !loadState(to, state)) return false
  connect(from, to, bases)
  return true
}

/** The destination's rings, with the driver's state of the source. */
export function connect(from: Rig, to: Rig, bases: readonly number[]): void {
  // Making a ring clears its memory: the guest's comes after that.
  for (const [index, ring] of from.front.rings.entries()) {
    const copy = new DriverRing(to.front, index, ring.size, ring.eventIdx, ring.indirect)
    copy.take(ring)
    to.front.rings[index] = copy
  }
  to.front.memory.set(from.front.memory)
  for (const [index, ring] of to.front.rings.entries()) ring.start(bases[index]!)
}
