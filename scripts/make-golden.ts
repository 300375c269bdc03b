/**
 * Records what a real guest says: the first request of each opcode with its reply, and every vhost-user
 * message of the session, byte for byte. Boots a user-mode Linux guest against a back end in this process.
 *
 *     node dist/scripts/make-golden.js > test/golden/guest.json
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Worker, isMainThread, workerData } from 'node:worker_threads'
import { OPCODE_NAMES, opcodeName } from '../protocol/fuse/opcodes.js'
import { Device, Token } from '../src/device/device.js'
import { HostFileSystem } from '../src/filesystems/host/host-filesystem.js'
import type { Buffers } from '../src/fuse/buffers.js'
import {
  ARENA_BYTES,
  MESSAGE_AT,
  REQUEST_AT,
  SCRATCH_AT,
  TABLE_AT,
  TABLE_BYTES,
} from '../src/fuse/layout.js'
import { FuseServer } from '../src/fuse/server.js'
import { native } from '../src/native/addon.js'
import { Context } from '../src/native/context.js'
import { VhostUserSession } from '../src/vhost/session.js'
import { DEFAULT_MIGRATION_OPTIONS } from '../src/vfs/migration.js'
import { Chain } from '../src/virtio/chain.js'
import { runUml, TAG } from './lab/uml.js'

/** Data past this is cut: the head of a WRITE says it all. */
const MOST_BYTES = 512

export interface GoldenRequest {
  readonly opcode: string
  /** Hex. */
  readonly request: string
  /** Bytes of the request, cut or not. */
  readonly requestBytes: number
  /** Absent when the reply came later, or there is none. */
  readonly reply?: string
  readonly replyBytes?: number
}

export interface Golden {
  readonly guest: string
  readonly requests: readonly GoldenRequest[]
  /** The streams of both directions, cut into messages; hex. */
  readonly frontEnd: readonly string[]
  readonly backEnd: readonly string[]
}

/** Makes a request of as many opcodes as a shell can. */
const WORKLOAD = `
uname -r > /tmp/uname; cat /tmp/uname
mkdir -p dir/sub; printf 'hello, host\\n' > dir/file; cat dir/file; cat old
printf more >> dir/file; ln dir/file dir/hard; ln -s file dir/soft; readlink dir/soft; mknod dir/fifo p
chmod 640 dir/file; chown 1:2 dir/file; touch -d '2001-02-03 04:05:06 UTC' dir/file; truncate -s 5 dir/file
mv dir/hard dir/renamed; mv --exchange dir/file dir/soft 2>/dev/null
perl -e 'syscall(316, -100, "dir/renamed", -100, "dir/soft", 2)'
setfattr -n user.key -v value dir/renamed; getfattr -n user.key dir/renamed; getfattr -d dir/renamed; setfattr -x user.key dir/renamed
stat -f .; ls -la dir; fallocate -l 8192 dir/renamed; sync dir/renamed
python3 - <<'PY'
import os, fcntl
f = os.open('dir/renamed', os.O_RDWR)
fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
try: os.lseek(f, 0, os.SEEK_DATA)
except OSError: pass
os.copy_file_range(f, f, 100, 0, 4096)
os.fsync(f)
t = os.open('dir', os.O_TMPFILE | os.O_RDWR)
d = os.open('dir', os.O_RDONLY); os.fsync(d)
try: fcntl.ioctl(f, 0x80086601, b'\\0' * 8)
except OSError: pass
PY
rm dir/renamed dir/soft dir/fifo dir/file; rmdir dir/sub dir; sync
echo 3 > /proc/sys/vm/drop_caches`

interface Shared {
  readonly listener: number
  readonly folder: string
}

/** Records the messages of one direction. */
class Stream {
  readonly messages: string[] = []
  #rest = Buffer.alloc(0)

  add(bytes: Uint8Array): void {
    this.#rest = Buffer.concat([this.#rest, bytes])
    while (this.#rest.length >= 12) {
      const whole = 12 + this.#rest.readUInt32LE(8)
      if (this.#rest.length < whole) return
      this.messages.push(this.#rest.toString('hex', 0, whole))
      this.#rest = this.#rest.subarray(whole)
    }
  }
}

class Recorder extends FuseServer {
  readonly seen = new Map<number, GoldenRequest>()
  readonly #memory: Context

  constructor(memory: Context, ...rest: ConstructorParameters<typeof FuseServer>) {
    super(...rest)
    this.#memory = memory
  }

  override handle(queue: number, head: number, buffers: Buffers): number {
    const { readFirst, readCount, readBytes, writeFirst, writeCount } = buffers
    const request = this.#copy(readFirst, readCount, readBytes)
    const opcode = request.readUInt32LE(4)
    const segments = this.#memory.segments.slice(writeFirst * 2, (writeFirst + writeCount) * 2)
    const written = super.handle(queue, head, buffers)
    if (this.seen.has(opcode)) return written
    const { length } = request
    const hex = request.toString('hex', 0, MOST_BYTES)
    let golden: GoldenRequest = { opcode: opcodeName(opcode), request: hex, requestBytes: length }
    if (written > 0) {
      this.#memory.segments.set(segments, writeFirst * 2)
      const reply = this.#copy(writeFirst, writeCount, written).toString('hex')
      golden = { ...golden, reply, replyBytes: written }
    }
    this.seen.set(opcode, golden)
    return written
  }

  #copy(first: number, count: number, bytes: number): Buffer {
    const length = Math.min(bytes, MOST_BYTES)
    this.#memory.copyIn(first, count, 0, REQUEST_AT, length)
    return Buffer.concat([
      this.#memory.bytes.subarray(REQUEST_AT, REQUEST_AT + length),
      Buffer.alloc(bytes - length),
    ])
  }
}

/** The back end; runs in a worker, since it never gives its thread back. */
function serve({ listener, folder }: Shared): void {
  const context = new Context({ arenaBytes: ARENA_BYTES, maxSegments: 4096, poolThreads: 2 })
  context.unshareFs()
  context.umask(0)
  const fs = new HostFileSystem(context, SCRATCH_AT, {
    sharedDir: folder,
    cache: 'auto',
    xattr: true,
    posixAcl: false,
    readOnly: false,
    allowDirectIo: false,
    securityContext: false,
    preserveNoatime: false,
    flockLocks: false,
    posixLocks: false,
    inodeFileHandles: 'never',
    migration: DEFAULT_MIGRATION_OPTIONS,
    nodeDescriptors: 100,
    openFiles: 100,
    keptInodes: 0,
    mappedStores: false,
  })
  fs.start()
  let device: Device
  const log = (level: string, message: string): void => {
    if (level === 'warn' || level === 'error') process.stderr.write(`${level}: ${message}\n`)
  }
  const server = new Recorder(context, context, fs, {
    writeback: false,
    readdirplus: true,
    killpriv: true,
    posixAcl: false,
    securityContext: false,
    announceSubmounts: true,
    allowMmap: false,
    onComplete: (queue, head, written) => device.completed(queue, head, written),
    waitRoom: queue => device.waitRoom(queue),
    onFault: (_message, cause) => {
      throw cause
    },
  })
  device = new Device(context, new Chain(context, TABLE_AT, TABLE_BYTES), server, {
    pollUs: 0,
    log,
  })
  const socketFd = native.unixAccept(listener, -1)
  const frontEnd = new Stream()
  const backEnd = new Stream()
  const receive = context.receive.bind(context)
  context.receive = (fd, at, bytes, result) => {
    const got = receive(fd, at, bytes, result)
    if (got > 0) frontEnd.add(context.bytes.subarray(at, at + got))
    return got
  }
  const { send } = context.raw
  context.raw.send = (fd, at, bytes, fdCount) => {
    backEnd.add(context.bytes.subarray(at, at + bytes))
    return send(fd, at, bytes, fdCount)
  }
  native.setNonBlocking(socketFd, true)
  const session = new VhostUserSession(context, MESSAGE_AT, device, {
    socketFd,
    requestQueues: 1,
    tag: TAG,
    log,
  })
  context.raw.watchFd(socketFd, Token.socket, false)
  for (let open = true; open; ) {
    const ready = device.turn()
    for (let i = 0; i < ready; i++)
      if (context.ready[i] === Token.socket && session.readable() === 'closed') open = false
  }
  const opcodes = [...OPCODE_NAMES.keys()]
  const requests = opcodes.map(opcode => server.seen.get(opcode)).filter(one => one !== undefined)
  writeFileSync(
    join(folder, 'golden'),
    JSON.stringify({ requests, frontEnd: frontEnd.messages, backEnd: backEnd.messages }),
  )
}

async function record(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-golden-'))
  const share = join(folder, 'share')
  mkdirSync(share)
  writeFileSync(join(share, 'old'), 'from the host\n')
  const socketPath = join(folder, 'socket')
  const listener = native.unixListen(socketPath, 1)
  const worker = new Worker(new URL(import.meta.url), { workerData: { listener, folder: share } })
  const ended = new Promise(done => worker.on('exit', done))
  const guest = await runUml({ socketPath, command: WORKLOAD })
  await ended
  const { readFileSync } = await import('node:fs')
  const recorded = JSON.parse(readFileSync(join(share, 'golden'), 'utf8')) as Omit<Golden, 'guest'>
  const golden: Golden = { guest: `Linux ${guest.output.split('\n')[0]}`, ...recorded }
  process.stdout.write(`${JSON.stringify(golden, undefined, 1)}\n`)
  process.stderr.write(guest.output)
  rmSync(folder, { recursive: true, force: true })
}

if (isMainThread) await record()
else serve(workerData as Shared)
