/** Every hot call with values in the mailbox that no caller of ours would put there. */
import {
  chmodSync,
  closeSync,
  readFileSync,
  rmSync,
  writeFileSync,
  constants as files,
} from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { type HotCalls, MAIL_JOBS, native, PoolCall, SignalKind } from '../../src/native/addon.js'
import type { Context } from '../../src/native/context.js'
import {
  descriptors,
  E,
  makeContext,
  makeFolder,
  open,
  own,
  put,
  ROOT,
  socketPair,
} from './support.js'

const ARENA = 65536
const GUEST = 0x4000_0000
const USER = 0x7f00_0000_0000n
/** The region ends inside its last page: a write past it would be seen in the file. */
const REGION = 6000

/** No number at all for an integer argument: must be refused wherever the argument counts. */
const NONSENSE = [
  Number.NaN,
  Infinity,
  -Infinity,
  0.5,
  -0.5,
  Number.MIN_VALUE,
  2 ** 53,
  2 ** 63,
  2 ** 64,
  -(2 ** 53),
  1e308,
]
/** Whole numbers that are out of range for some arguments and harmless for others. */
const EXTREME = [-1, -2, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, ARENA - 1, ARENA, ARENA + 1]

interface Row {
  readonly call: keyof HotCalls
  /** Which one of several rows of a call. */
  readonly what?: string
  /** Arguments with which the call succeeds; made anew for each call. */
  readonly args: () => number[]
  /** Arguments that are looked at only for one special value, or not at all. */
  readonly ignored?: readonly number[]
  /** Answers of good arguments that the host may give instead of success. */
  readonly mayFail?: readonly number[]
  /** Undoes what a call did. */
  readonly after?: (answer: number) => void
  /** Arguments that are places in the arena, of more than one byte each. */
  readonly at?: readonly number[]
  /** Of these, the ones that may be EMPTY_PATH. */
  readonly empty?: readonly number[]
}

interface Scene {
  readonly context: Context
  readonly rows: readonly Row[]
  readonly memory: () => Buffer
}

function scene(t: ExecutionContext): Scene {
  const context = makeContext(t)
  const folder = makeFolder(t)
  const memory = own(t, native.memfd('guest', 8192))
  t.is(context.raw.addRegion(memory, 0n, BigInt(GUEST), USER, BigInt(REGION)), 0)
  context.segments.fill(-1)
  context.segments.set([GUEST, 4096, GUEST + 4096, REGION - 4096])
  const dir = open(t, folder, files.O_RDONLY | files.O_DIRECTORY)
  writeFileSync(join(folder, 'file'), 'x'.repeat(100))
  writeFileSync(join(folder, 'other'), 'y')
  const path = join(folder, 'file')
  const file = open(t, path, files.O_RDWR)
  const other = open(t, join(folder, 'other'), files.O_RDWR)
  // fsync and syncfs of memory files are quick.
  const quick = own(t, native.memfd('quick', 4096))
  const mapped = context.raw.mapFile(file, 4096)
  const event = own(t, native.eventFd())
  // Readable for ever, so that no time-out makes `wait` block.
  const [readable, writable] = socketPair(t)
  native.eventWrite(writable)
  t.is(context.raw.watchFd(readable, 7, false), 0)
  // No name ends in the arena's last byte.
  context.bytes[ARENA - 1] = 0x41
  let spare = -1
  const makeSpare = (): number => {
    spare = native.dupFd(file)
    return spare
  }
  const closeSpare = (): void => void native.closeFd(spare)

  const NEW = put(context, 100, 'new')
  const FILE = put(context, 120, 'file')
  const XATTR = put(context, 140, 'user.test')
  const LINK = put(context, 160, 'link')
  const MOVED = put(context, 180, 'moved')
  const OUT = 1024
  const HANDLE = 20_000
  t.is(context.symlinkat(FILE, dir, LINK), 0)
  const link = own(t, context.openat(dir, LINK, files.O_NOFOLLOW | 0o10000000, 0, 0))
  const handles = context.nameToHandle(dir, FILE, HANDLE) >= 0
  const xattrs = context.setxattr(file, XATTR, OUT, 4, 0) === 0
  const handleFaults = handles ? [E.EPERM, E.EOPNOTSUPP] : [E.EPERM, E.EOPNOTSUPP, E.EINVAL]
  const xattrFaults = xattrs ? [] : [E.EOPNOTSUPP]

  const closeIt = (answer: number): void => {
    if (answer >= 0) closeSync(answer)
  }
  const clean = (): void => {
    for (const name of ['new', 'moved'])
      rmSync(join(folder, name), { recursive: true, force: true })
    writeFileSync(path, 'x'.repeat(100))
  }
  const uid = process.geteuid!()
  const gid = process.getegid!()
  const mask = process.umask()
  const back = (): void => {
    t.is(context.restoreCredentials(), 0)
  }
  const pooled = (call: number, args: () => number[]): (() => number[]) => {
    return () => [...args(), ...new Array<number>(7).fill(0)].slice(0, 7).concat(call, 1)
  }
  const rest = (used: number): number[] => [0, 1, 2, 3, 4, 5, 6].filter(slot => slot >= used)

  const rows: Row[] = [
    { call: 'copyIn', at: [3], args: () => [0, 2, 0, OUT, 5000] },
    { call: 'copyOut', at: [3], args: () => [0, 2, 10, OUT, 5000] },
    { call: 'readv', args: () => [file, 0, 2, 0, 5000, 0, 0, 10] },
    { call: 'writev', args: () => [file, 0, 1, 0, 100, 0, 0], after: clean },
    {
      call: 'openat',
      at: [1],
      args: () => [dir, FILE, files.O_RDWR, 0, 0],
      after: closeIt,
    },
    {
      call: 'openat',
      what: 'creating',
      at: [1],
      args: () => [dir, NEW, files.O_RDWR | files.O_CREAT, 0o600, 0],
      after: answer => {
        closeIt(answer)
        clean()
      },
    },
    { call: 'reopen', args: () => [file, files.O_RDONLY], after: closeIt },
    { call: 'close', args: () => [makeSpare()], after: closeSpare },
    { call: 'statx', at: [1, 4], empty: [1], args: () => [dir, FILE, 0, 0x7ff, OUT] },
    { call: 'statfs', at: [1], args: () => [dir, OUT] },
    { call: 'readlink', at: [1], args: () => [link, OUT, 256] },
    { call: 'fdLink', at: [1], args: () => [dir, OUT, 4096] },
    { call: 'mknodat', at: [1], args: () => [dir, NEW, 0o100600, 0, 0], after: clean },
    { call: 'mkdirat', at: [1], args: () => [dir, NEW, 0o700], after: clean },
    { call: 'symlinkat', at: [0, 2], args: () => [FILE, dir, NEW], after: clean },
    { call: 'linkat', at: [2], args: () => [file, dir, NEW], after: clean },
    {
      call: 'unlinkat',
      at: [1],
      args: () => {
        writeFileSync(join(folder, 'new'), '')
        return [dir, NEW, 0]
      },
      after: clean,
    },
    {
      call: 'renameat2',
      at: [1, 3],
      args: () => {
        writeFileSync(join(folder, 'new'), '')
        return [dir, NEW, dir, MOVED, 0]
      },
      after: clean,
    },
    { call: 'chmod', args: () => [file, 0o600], after: () => chmodSync(path, 0o644) },
    { call: 'chown', args: () => [file, uid, gid], mayFail: [] },
    { call: 'utimens', args: () => [file, 1, 2, 3, 4] },
    { call: 'ftruncate', args: () => [file, 10], after: clean },
    // Punches a hole: whatever the length, it takes no room.
    { call: 'fallocate', args: () => [file, 3, 0, 10] },
    { call: 'copyFileRange', args: () => [file, 0, other, 0, 10] },
    { call: 'lseek', args: () => [file, 0, 0] },
    { call: 'fsync', args: () => [quick, 0], ignored: [1] },
    { call: 'syncfs', args: () => [quick, 0], ignored: [1] },
    { call: 'getdents64', at: [1], args: () => [dir, OUT, 4096, 1, 0, 0], ignored: [3] },
    { call: 'getxattr', at: [1, 2], args: () => [file, XATTR, OUT, 64], mayFail: xattrFaults },
    { call: 'setxattr', at: [1, 2], args: () => [file, XATTR, OUT, 4, 0], mayFail: xattrFaults },
    { call: 'listxattr', at: [1], args: () => [file, OUT, 256], mayFail: xattrFaults },
    {
      call: 'removexattr',
      at: [1],
      args: () => {
        context.setxattr(file, XATTR, OUT, 4, 0)
        return [file, XATTR]
      },
      mayFail: xattrFaults,
      after: () => void context.setxattr(file, XATTR, OUT, 4, 0),
    },
    { call: 'faccess', args: () => [file, 4] },
    {
      call: 'nameToHandle',
      at: [1, 2],
      empty: [1],
      args: () => [dir, FILE, OUT],
      mayFail: handleFaults,
    },
    {
      call: 'openByHandle',
      at: [1],
      args: () => [dir, HANDLE, files.O_RDONLY],
      mayFail: handleFaults,
      after: closeIt,
    },
    // LOCK_SH with LOCK_NB; nobody else has a lock.
    { call: 'flock', args: () => [file, 5] },
    { call: 'ofdLock', args: () => [file, 37, 0, 0, 10, OUT], ignored: [5] },
    { call: 'ofdLock', what: 'query', at: [5], args: () => [file, 36, 1, 0, 10, OUT] },
    {
      call: 'ioctl',
      at: [2],
      args: () => [file, 0x80086601, OUT, 8],
      mayFail: [E.ENOTTY, E.EOPNOTSUPP],
    },
    {
      call: 'setCredentials',
      at: [2],
      args: () => [uid, gid, OUT, 1],
      mayFail: ROOT ? [] : [E.EPERM],
      after: back,
    },
    { call: 'restoreCredentials', args: () => [] },
    {
      call: 'setEffectiveCapability',
      args: () => [0, 0],
      after: () => void (ROOT && context.setEffectiveCapability(0, 1)),
    },
    { call: 'umask', args: () => [0o22], after: () => void process.umask(mask) },
    { call: 'unshareFs', args: () => [], mayFail: [E.EPERM] },
    { call: 'memfdCreate', args: () => [], after: closeIt },
    { call: 'eventSignal', args: () => [event, SignalKind.eventFd] },
    { call: 'markDirty', args: () => [4096, 10] },
    { call: 'reap', args: () => [], mayFail: [1] },
    { call: 'wait', args: () => [0, 0] },
    {
      call: 'submit',
      what: 'readv',
      args: pooled(PoolCall.readv, () => [file, 0, 2, 0, 5000, 0, 0]),
    },
    { call: 'nowUs', args: () => [] },
    {
      call: 'submitAlone',
      args: pooled(PoolCall.flock, () => [file, 5]),
      ignored: rest(2),
    },
    { call: 'interrupt', args: () => [12345, 0] },
    { call: 'preemptions', args: () => [] },
    { call: 'pollNow', args: () => [file, other] },
    { call: 'readMapped', args: () => [mapped, 0, 2, 0, 100, 0] },
    { call: 'readvAfter', args: () => [file, 0, 2, 5000, 0, 0, 0, 16] },
    {
      call: 'submit',
      what: 'readBegun',
      args: pooled(PoolCall.readBegun, () => [file, 0, 2, 0, 5000, 0, 0]),
    },
    {
      call: 'submit',
      what: 'writev',
      args: pooled(PoolCall.writev, () => [other, 0, 1, 0, 100, 0, 0]),
    },
    {
      call: 'submit',
      what: 'fsync',
      args: pooled(PoolCall.fsync, () => [quick]),
      ignored: rest(1),
    },
    {
      call: 'submit',
      what: 'syncfs',
      args: pooled(PoolCall.syncfs, () => [quick]),
      ignored: rest(1),
    },
    {
      call: 'submit',
      what: 'fallocate',
      args: pooled(PoolCall.fallocate, () => [file, 3, 0, 10]),
      ignored: rest(4),
    },
    {
      call: 'submit',
      what: 'copyFileRange',
      args: pooled(PoolCall.copyFileRange, () => [file, 0, other, 0, 10]),
      ignored: rest(5),
    },
    {
      call: 'submit',
      what: 'close',
      args: pooled(PoolCall.close, () => [makeSpare()]),
      after: closeSpare,
      ignored: rest(1),
    },
    {
      call: 'submit',
      what: 'flock',
      args: pooled(PoolCall.flock, () => [file, 5]),
      ignored: rest(2),
    },
    {
      call: 'submit',
      what: 'ftruncate',
      args: pooled(PoolCall.ftruncate, () => [file, 10]),
      ignored: rest(2),
    },
    {
      call: 'submit',
      what: 'ofdLock',
      args: pooled(PoolCall.ofdLock, () => [file, 0, 0, 10]),
      ignored: rest(4),
    },
    {
      call: 'submitAlone',
      what: 'flock',
      args: pooled(PoolCall.flock, () => [file, 5]),
      ignored: rest(2),
    },
    {
      call: 'submitAlone',
      what: 'ofdLock',
      args: pooled(PoolCall.ofdLock, () => [file, 0, 0, 10]),
      ignored: rest(4),
    },
    { call: 'interrupt', args: () => [9, 0] },
  ]
  return { context, rows, memory: () => readFileSync(`/proc/self/fd/${memory}`) }
}

/** Calls once with `args`; the answer, or for a submitted job its result. */
function perform(scene: Scene, row: Row, args: readonly number[]): number {
  const { context } = scene
  const mail = new Float64Array(context.raw.mail)
  mail.fill(0, 0, MAIL_JOBS)
  mail.set(args, 1)
  context.raw[row.call]()
  let answer = mail[0]!
  if ((row.call === 'submit' || row.call === 'submitAlone') && answer === 0) {
    const token = args[8]
    let reaped = -1
    for (const until = performance.now() + 60_000; reaped < 0 && performance.now() < until; ) {
      reaped = context.reap()
      if (reaped >= 0) continue
      context.wait(0, 1000)
      // Without a spin: that has a thread wait for a begun read that does not come by itself.
      context.wait(0, 0)
    }
    if (reaped !== token) throw new Error(`job ${token} came back as ${reaped}`)
    answer = context.reapedResult
  }
  row.after?.(answer)
  return answer
}

const REFUSED = [-E.EINVAL, -E.EFAULT, -E.EBADF]

function title(row: Row): string {
  return row.what === undefined ? row.call : `${row.call} (${row.what})`
}

test('every hot call is in the table, and succeeds with good arguments', t => {
  const s = scene(t)
  const inTable = new Set<string>(s.rows.map(row => row.call))
  const hot = Object.keys(s.context.raw).filter(name => {
    const value = s.context.raw[name as keyof HotCalls] as unknown
    return typeof value === 'function' && !COLD.has(name)
  })
  t.deepEqual([...inTable].sort(), hot.sort())
  for (const row of s.rows) {
    const answer = perform(s, row, row.args())
    t.true(answer >= 0 || row.mayFail?.includes(-answer) === true, `${title(row)}: ${answer}`)
  }
})

/** Calls with N-API arguments. */
const COLD = new Set([
  'addRegion',
  'removeRegion',
  'clearRegions',
  'mapView',
  'unmapView',
  'watchRing',
  'setDirtyLog',
  'enableDirtyLog',
  'dirtyLogMisses',
  'inotifyInit',
  'inotifyAdd',
  'inotifyRemove',
  'mapFile',
  'mapShared',
  'unmapFile',
  'fanotifyInit',
  'fanotifyInitNamed',
  'fanotifyMark',
  'fanotifyMarkOpen',
  'fanotifyClear',
  'watchFd',
  'unwatchFd',
  'receive',
  'send',
  'dispose',
])

/** Runs `step` and checks that nothing outside of what the call may write has changed. */
function guarded(t: ExecutionContext, s: Scene, name: string, step: () => number): number {
  const segments = Buffer.from(s.context.raw.segments).toString('hex')
  const lastAvail = Buffer.from(s.context.raw.lastAvail).toString('hex')
  s.context.fds.fill(0x5a5a5a5a)
  const answer = step()
  if (!Number.isInteger(answer) || answer < -4095) t.fail(`${name}: answer ${answer}`)
  // The segments lie right behind the arena.
  if (Buffer.from(s.context.raw.segments).toString('hex') !== segments)
    t.fail(`${name}: segments written`)
  if (Buffer.from(s.context.raw.lastAvail).toString('hex') !== lastAvail)
    t.fail(`${name}: lastAvail written`)
  if (s.context.fds.some(fd => fd !== 0x5a5a5a5a)) t.fail(`${name}: fds written`)
  return answer
}

/** How many arguments a row has. */
function slotsOf(s: Scene, row: Row): number {
  const args = row.args()
  perform(s, row, args)
  return args.length
}

test('a value that is no integer is refused in every argument that counts', t => {
  const s = scene(t)
  const before = descriptors()
  for (const row of s.rows) {
    const slots = slotsOf(s, row)
    for (let slot = 0; slot < slots; slot++) {
      if (row.ignored?.includes(slot)) continue
      for (const value of NONSENSE) {
        const args = row.args()
        args[slot] = value
        const name = `${title(row)} with ${value} in argument ${slot}`
        const answer = guarded(t, s, name, () => perform(s, row, args))
        if (!REFUSED.includes(answer)) t.fail(`${name}: ${answer}`)
      }
    }
  }
  t.deepEqual(descriptors(), before)
})

test('a place outside the arena, or at its very end, is EFAULT', t => {
  const s = scene(t)
  const before = descriptors()
  let tried = 0
  for (const row of s.rows)
    for (const slot of row.at ?? [])
      for (const value of [-1, -2, ARENA - 1, ARENA, ARENA + 1, 2 ** 31, 2 ** 32]) {
        if (value === -1 && row.empty?.includes(slot)) continue
        const args = row.args()
        args[slot] = value
        const name = `${title(row)} with ${value} in argument ${slot}`
        const answer = guarded(t, s, name, () => perform(s, row, args))
        if (answer !== -E.EFAULT) t.fail(`${name}: ${answer}`)
        tried++
      }
  t.true(tried > 150)
  t.deepEqual(descriptors(), before)
})

test('a descriptor that is none is EBADF', t => {
  const s = scene(t)
  const wanted: readonly (readonly [keyof HotCalls, number])[] = [
    ['readv', 0],
    ['writev', 0],
    ['openat', 0],
    ['close', 0],
    ['statx', 0],
    ['statfs', 0],
    ['readlink', 0],
    ['mknodat', 0],
    ['mkdirat', 0],
    ['symlinkat', 1],
    ['linkat', 1],
    ['unlinkat', 0],
    ['renameat2', 0],
    ['renameat2', 2],
    ['chmod', 0],
    ['chown', 0],
    ['utimens', 0],
    ['ftruncate', 0],
    ['fallocate', 0],
    ['copyFileRange', 0],
    ['copyFileRange', 2],
    ['lseek', 0],
    ['fsync', 0],
    ['syncfs', 0],
    ['getdents64', 0],
    ['faccess', 0],
    ['nameToHandle', 0],
    ['flock', 0],
    ['ofdLock', 0],
    ['ioctl', 0],
    ['eventSignal', 0],
  ]
  for (const [call, slot] of wanted)
    for (const row of s.rows.filter(one => one.call === call))
      for (const value of [2 ** 31 - 1, ARENA]) {
        const args = row.args()
        args[slot] = value
        t.is(perform(s, row, args), -E.EBADF, `${title(row)} with descriptor ${value}`)
      }
})

test('a number that is out of range does no harm in any argument', t => {
  const s = scene(t)
  const before = descriptors()
  const tail = s.memory().subarray(REGION)
  let refused = 0
  for (const row of s.rows) {
    const slots = slotsOf(s, row)
    const tries: number[][] = []
    for (const value of EXTREME) {
      for (let slot = 0; slot < slots; slot++) {
        const args = row.args()
        args[slot] = value
        tries.push(args)
        row.after?.(-1)
      }
      if (slots > 0) tries.push(new Array<number>(slots).fill(value))
    }
    for (const args of tries) {
      const name = `${title(row)}(${args.join(', ')})`
      if (guarded(t, s, name, () => perform(s, row, args)) < 0) refused++
    }
  }
  t.true(refused > 500, `only ${refused} were refused`)
  t.deepEqual(descriptors(), before)
  t.deepEqual(s.memory().subarray(REGION), tail)
  for (const row of s.rows) {
    const answer = perform(s, row, row.args())
    t.true(answer >= 0 || row.mayFail?.includes(-answer) === true, `afterwards ${title(row)}`)
  }
})

test('no mixture of good and hostile arguments does harm', t => {
  const s = scene(t)
  const before = descriptors()
  const tail = s.memory().subarray(REGION)
  const value = fc.oneof(
    { weight: 4, arbitrary: fc.constant(undefined) },
    { weight: 2, arbitrary: fc.constantFrom(...EXTREME) },
    { weight: 1, arbitrary: fc.constantFrom(...NONSENSE) },
  )
  fc.assert(
    fc.property(fc.constantFrom(...s.rows), fc.array(value, { maxLength: 9 }), (row, values) => {
      const good = row.args()
      const args = good.map((number, slot) => values[slot] ?? number)
      guarded(t, s, `${title(row)}(${args.join(', ')})`, () => perform(s, row, args))
    }),
    { numRuns: 5000 },
  )
  t.deepEqual(descriptors(), before)
  t.deepEqual(s.memory().subarray(REGION), tail)
})

test('a segment outside guest memory is EFAULT, and nothing is copied', t => {
  const s = scene(t)
  const { context } = s
  const before = s.memory()
  const bad: [number, number][] = [
    [GUEST - 1, 1],
    [GUEST - 1, 2],
    [GUEST + REGION, 1],
    [GUEST + REGION - 1, 2],
    [0, 1],
    [GUEST, REGION + 1],
    [GUEST, 2 ** 53 - 1],
    [2 ** 53 - 1, 2 ** 53 - 1],
    [2 ** 53 - 1, 1],
  ]
  for (const value of NONSENSE) bad.push([value, 1], [GUEST, value])
  bad.push([-1, 1], [GUEST, -1])
  const file = own(t, native.memfd('file', 8192))
  context.bytes.fill(0x77, 0, 8192)
  for (const [address, length] of bad) {
    const name = `segment ${address}, ${length}`
    // A good segment first: not even that is written.
    context.segments.set([GUEST, 100, address, length])
    t.is(context.copyOut(0, 2, 0, 0, 8192), -E.EFAULT, name)
    t.is(context.copyIn(0, 2, 0, 8192, 8192), -E.EFAULT, name)
    t.is(context.readv(file, 0, 2, 0, 8192, 0, 0), -E.EFAULT, name)
    t.is(context.writev(file, 0, 2, 0, 8192, 0, 0), -E.EFAULT, name)
    t.is(context.submit(PoolCall.readv, 1, file, 0, 2, 0, 8192, 0, 0), -E.EFAULT, name)
    t.is(context.submit(PoolCall.writev, 1, file, 0, 2, 0, 8192, 0, 0), -E.EFAULT, name)
  }
  t.is(context.reap(), -1)
  t.deepEqual(s.memory(), before)
  t.deepEqual([...new Set(context.bytes.subarray(8192, 16384))], [0])
  t.deepEqual([...new Set(readFileSync(`/proc/self/fd/${file}`))], [0])
})

test('segments beyond the list are refused', t => {
  const { context } = scene(t)
  const file = own(t, native.memfd('file', 8192))
  for (const [first, count] of [
    [0, 65],
    [1, 64],
    [64, 1],
    [65, 0],
    [2 ** 32, 1],
    [1, 2 ** 53 - 1],
  ] as const) {
    t.is(context.copyIn(first, count, 0, 0, 10), -E.EINVAL)
    t.is(context.copyOut(first, count, 0, 0, 10), -E.EINVAL)
    t.is(context.readv(file, first, count, 0, 10, 0, 0), -E.EINVAL)
    t.is(context.submit(PoolCall.writev, 1, file, first, count, 0, 10, 0, 0), -E.EINVAL)
  }
  t.is(context.copyIn(64, 0, 0, 0, 10), 0)
})

test('after dispose every hot call answers EBADF and does nothing', t => {
  const s = scene(t)
  s.context.dispose()
  s.context.dispose()
  const mail = new Float64Array(s.context.raw.mail)
  for (const row of s.rows) {
    mail.fill(0, 0, MAIL_JOBS)
    const args = row.args()
    mail.set(args, 1)
    s.context.raw[row.call]()
    if (row.call === 'close' || row.what === 'close') t.is(native.closeFd(args[0]!), 0)
    t.is(mail[0], -E.EBADF, title(row))
  }
})

test('options outside their limits throw', t => {
  const good = { arenaBytes: 4096, maxSegments: 1, poolThreads: 1 }
  const before = descriptors()
  for (const bad of [
    { arenaBytes: 0 },
    { arenaBytes: 4095 },
    { arenaBytes: 4097 },
    { arenaBytes: 64 * 1024 * 1024 + 4096 },
    { arenaBytes: -4096 },
    { arenaBytes: Number.NaN },
    { maxSegments: 0 },
    { maxSegments: 65537 },
    { maxSegments: 1.5 },
    { poolThreads: 0 },
    { poolThreads: 257 },
    { poolThreads: Infinity },
  ])
    t.throws(() => native.createContext({ ...good, ...bad }), { instanceOf: TypeError })
  t.throws(() => native.createContext({} as never), { instanceOf: TypeError })
  t.throws(() => native.createContext(undefined as never), { instanceOf: TypeError })
  t.deepEqual(descriptors(), before)
})
