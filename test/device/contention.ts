/** What several-queues.test.ts and its driver threads tell each other, and the files they agree about. */
import type { DriverPlace } from '../helpers/driver-thread.js'
import { concat, u32s } from '../helpers/front-end.js'

/** What a driver is started with. */
export interface Order {
  readonly place: DriverPlace
  /** 0 and up; of `drivers`. */
  readonly number: number
  readonly drivers: number
  readonly seed: number
  /** Rounds of each task. */
  readonly rounds: number
  /** An eventfd that is told of the end. */
  readonly doneFd: number
}

/** What it says at the end. */
export interface Account {
  fault: string
  requests: number
  /** [nodeid, lookups] that were granted and not given back. */
  lookups: [number, number][]
  /** Names made less names removed in `shared`. */
  names: number
  /** Bytes of each record appended to `log`, by its number. */
  appended: number[]
}

export const SLOT_BYTES = 4096
export const SLOTS = 8
export const BIG_BYTES = 1 << 20
/** Byte `i` of `big`. */
export const bigByte = (i: number): number => ((i >> 12) * 7 + i * 13) & 0xff
/** A record of `log`: its bytes, driver and number, then filling. */
export function record(driver: number, number: number, bytes: number): Uint8Array {
  return concat(u32s(bytes, driver, number), new Uint8Array(bytes - 12).fill(driver + 1))
}
