/** A driver of the hiprio queue in a thread of its own that waits for each FORGET to be given back, and signalled. */
import { parentPort, workerData } from 'node:worker_threads'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import { native } from '../../src/native/addon.js'
import { type Ask, drive, type DriverPlace, type Task } from '../helpers/driver-thread.js'
import { u64 } from '../helpers/front-end.js'

export interface ForgettingOrder {
  readonly place: DriverPlace
  readonly opcode: number
  readonly nodeid: number
  /** Requests of each task. */
  readonly count: number
  readonly tasks: number
  readonly doneFd: number
}

function* ask(order: ForgettingOrder): Task {
  const request: Ask = { opcode: order.opcode, nodeid: order.nodeid, body: u64(1n) }
  const room = order.opcode === Opcode.FUSE_FORGET ? 0 : 4112
  const body = room === 0 ? u64(1n) : new Uint8Array(16)
  for (let i = 0; i < order.count; i++) yield { ...request, body, room }
}

const order = workerData as ForgettingOrder
let fault = ''
try {
  drive(
    order.place,
    Array.from({ length: order.tasks }, () => ask(order)),
  )
} catch (cause) {
  fault = (cause as Error).message
}
parentPort!.postMessage(fault)
native.eventWrite(order.doneFd)
