/**
 * A file system of the host that stalls: mounted over /dev/fuse, served by a worker thread, with one
 * file `slow` whose READ, WRITE and FSYNC are answered only when the test lets them. Root only.
 */
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'

export const SLOW_BYTES = 65536
const OPCODES = {
  GETATTR: 3,
  LOOKUP: 1,
  FORGET: 2,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  FSYNC: 20,
  INIT: 26,
  INTERRUPT: 36,
  BATCH_FORGET: 42,
  DESTROY: 38,
  OPEN: 14,
  OPENDIR: 27,
  RELEASE: 18,
  RELEASEDIR: 29,
  FLUSH: 25,
}

export class StalledFileSystem {
  readonly folder = mkdtempSync(join(tmpdir(), 'virtiofsd-stalled-'))
  /** Word 0: whether requests are answered; 1: how many are held back; 2: whether it is mounted. */
  readonly gate = new Int32Array(new SharedArrayBuffer(12))
  readonly #worker: Worker
  readonly #fd: number

  /** Mounts it when its server is running: from then on this thread may block on it. */
  static async mount(): Promise<StalledFileSystem> {
    const made = new StalledFileSystem()
    await once(made.#worker, 'message')
    made.#mount()
    return made
  }

  private constructor() {
    this.#fd = openSync('/dev/fuse', 'r+')
    this.#worker = new Worker(new URL(import.meta.url), {
      workerData: { fd: this.#fd, gate: this.gate },
    })
  }

  #mount(): void {
    const options = 'fd=3,rootmode=40000,user_id=0,group_id=0,allow_other,max_read=65536'
    execFileSync('mount', ['-i', '-t', 'fuse', '-o', options, 'stalled', this.folder], {
      stdio: ['ignore', 'inherit', 'inherit', this.#fd],
    })
    Atomics.store(this.gate, 2, 1)
    Atomics.notify(this.gate, 2)
  }

  /** Waits until so many requests are held back. */
  waitHeld(count: number): boolean {
    const limit = performance.now() + 60_000
    while (Atomics.load(this.gate, 1) < count)
      if (
        Atomics.wait(this.gate, 1, Atomics.load(this.gate, 1), 50) === 'timed-out' &&
        performance.now() > limit
      )
        return false
    return true
  }

  open(): void {
    Atomics.store(this.gate, 0, 1)
    // Any request makes the server look at the gate.
    existsSync(join(this.folder, 'poke'))
  }

  async close(): Promise<void> {
    this.open()
    execFileSync('umount', ['-l', this.folder])
    await this.#worker.terminate()
    closeSync(this.#fd)
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** The worker: a FUSE server of one directory with one file, by hand. */
function serve(fd: number, gate: Int32Array): void {
  const request = new Uint8Array(1 << 20)
  const held: Uint8Array[] = []
  for (;;) {
    let length: number
    try {
      length = readSync(fd, request)
    } catch {
      return // Unmounted.
    }
    const view = new DataView(request.buffer, 0, length)
    const opcode = view.getUint32(4, true)
    if ([OPCODES.FORGET, OPCODES.BATCH_FORGET, OPCODES.INTERRUPT].includes(opcode)) continue
    const reply = answer(opcode, view)
    if ([OPCODES.READ, OPCODES.WRITE, OPCODES.FSYNC].includes(opcode)) {
      held.push(reply)
      Atomics.add(gate, 1, 1)
      Atomics.notify(gate, 1)
    } else {
      writeSync(fd, reply)
    }
    if (Atomics.load(gate, 0) === 1) for (const one of held.splice(0)) writeSync(fd, one)
    if (opcode === OPCODES.DESTROY) return
  }
}

function answer(opcode: number, request: DataView): Uint8Array {
  const [error, body] = bodyOf(opcode, request)
  const reply = new Uint8Array(16 + body.length)
  const view = new DataView(reply.buffer)
  view.setUint32(0, reply.length, true)
  view.setInt32(4, error, true)
  view.setBigUint64(8, request.getBigUint64(8, true), true)
  reply.set(body, 16)
  return reply
}

function bodyOf(opcode: number, request: DataView): [error: number, body: Uint8Array] {
  const nodeid = request.getUint32(16, true)
  switch (opcode) {
    case OPCODES.INIT: {
      const out = new Uint8Array(64)
      const view = new DataView(out.buffer)
      view.setUint32(0, 7, true)
      view.setUint32(4, 31, true)
      view.setUint32(20, 65536, true)
      return [0, out]
    }
    case OPCODES.LOOKUP: {
      const name = String.fromCharCode(
        ...new Uint8Array(request.buffer, 40, request.byteLength - 41),
      )
      if (name !== 'slow') return [-2, new Uint8Array(0)]
      const out = new Uint8Array(128)
      const view = new DataView(out.buffer)
      view.setUint32(0, 2, true)
      view.setUint32(16, 3600, true)
      view.setUint32(24, 3600, true)
      out.set(attributes(2), 40)
      return [0, out]
    }
    case OPCODES.GETATTR: {
      const out = new Uint8Array(104)
      new DataView(out.buffer).setUint32(0, 3600, true)
      out.set(attributes(nodeid), 16)
      return [0, out]
    }
    case OPCODES.OPEN:
    case OPCODES.OPENDIR: {
      // Direct I/O: each read and write of a caller becomes a request.
      const out = new Uint8Array(16)
      new DataView(out.buffer).setUint32(8, opcode === OPCODES.OPEN ? 1 : 0, true)
      return [0, out]
    }
    case OPCODES.READ:
      return [0, new Uint8Array(request.getUint32(56, true)).fill(0x73)]
    case OPCODES.WRITE:
      return [
        0,
        new Uint8Array(request.buffer.slice(56, 60)).length === 4
          ? writeOut(request.getUint32(56, true))
          : new Uint8Array(8),
      ]
    case OPCODES.STATFS:
      return [0, new Uint8Array(80)]
    case OPCODES.RELEASE:
    case OPCODES.RELEASEDIR:
    case OPCODES.FLUSH:
    case OPCODES.FSYNC:
    case OPCODES.DESTROY:
      return [0, new Uint8Array(0)]
    default:
      return [-38, new Uint8Array(0)]
  }
}

function writeOut(size: number): Uint8Array {
  const out = new Uint8Array(8)
  new DataView(out.buffer).setUint32(0, size, true)
  return out
}

function attributes(nodeid: number): Uint8Array {
  const out = new Uint8Array(88)
  const view = new DataView(out.buffer)
  view.setUint32(0, nodeid, true)
  view.setUint32(8, nodeid === 1 ? 0 : SLOW_BYTES, true)
  view.setUint32(60, nodeid === 1 ? 0o040755 : 0o100644, true)
  view.setUint32(64, 1, true)
  return out
}

if (!isMainThread && workerData?.gate !== undefined) {
  const gate = workerData.gate as Int32Array
  parentPort!.postMessage('ready')
  // Until it is mounted the descriptor cannot be read.
  Atomics.wait(gate, 2, 0)
  serve(workerData.fd as number, gate)
}
