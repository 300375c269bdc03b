/** Calls on nodes: O_PATH descriptors of every kind of file, names in the arena, directories, locks. */
import {
  chmodSync,
  constants as files,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { native } from '../../src/native/addon.js'
import {
  type Context,
  EMPTY_PATH,
  KEEP_ID,
  UTIME_NOW,
  UTIME_OMIT,
} from '../../src/native/context.js'
import {
  descriptors,
  E,
  makeContext,
  makeFifo,
  makeFolder,
  open,
  own,
  put,
  ROOT,
} from './support.js'

const O_PATH = 0o10000000
const ARENA = 65536
const NAME = 0
const OTHER = 4200
const OUT = 8192
const KINDS = ['file', 'dir', 'link', 'fifo'] as const
type Kind = (typeof KINDS)[number]

interface Scene {
  readonly context: Context
  readonly folder: string
  readonly dir: number
  /** O_PATH descriptors. */
  readonly nodes: Readonly<Record<Kind, number>>
}

function scene(t: ExecutionContext): Scene {
  const context = makeContext(t)
  const folder = makeFolder(t)
  writeFileSync(join(folder, 'file'), 'content', { mode: 0o640 })
  mkdirSync(join(folder, 'dir'), { mode: 0o750 })
  symlinkSync('nowhere/at/all', join(folder, 'link'))
  makeFifo(context, join(folder, 'fifo'))
  chmodSync(join(folder, 'fifo'), 0o600)
  const dir = open(t, folder, files.O_RDONLY | files.O_DIRECTORY)
  const node = (kind: Kind): number =>
    own(t, context.openat(dir, put(context, NAME, kind), O_PATH | files.O_NOFOLLOW, 0, 0))
  return {
    context,
    folder,
    dir,
    nodes: { file: node('file'), dir: node('dir'), link: node('link'), fifo: node('fifo') },
  }
}

/** Fields of struct statx at OUT. */
function statx(context: Context): {
  mask: number
  nlink: number
  uid: number
  gid: number
  mode: number
  ino: bigint
  size: bigint
  atime: [bigint, number]
  mtime: [bigint, number]
} {
  const { view } = context
  return {
    mask: view.getUint32(OUT, true),
    nlink: view.getUint32(OUT + 16, true),
    uid: view.getUint32(OUT + 20, true),
    gid: view.getUint32(OUT + 24, true),
    mode: view.getUint16(OUT + 28, true),
    ino: view.getBigUint64(OUT + 32, true),
    size: view.getBigUint64(OUT + 40, true),
    atime: [view.getBigInt64(OUT + 64, true), view.getUint32(OUT + 72, true)],
    mtime: [view.getBigInt64(OUT + 112, true), view.getUint32(OUT + 120, true)],
  }
}

function statOf(t: ExecutionContext, s: Scene, kind: Kind): ReturnType<typeof statx> {
  t.is(s.context.statx(s.nodes[kind], EMPTY_PATH, 0, 0x7ff, OUT), 0)
  return statx(s.context)
}

// --- names ------------------------------------------------------------------------------------------

test('a name that does not end, or ends too late, reaches no system call', t => {
  const { context, dir, folder } = scene(t)
  const before = readdirSync(folder)
  const calls: Record<string, (at: number) => number> = {
    openat: at => context.openat(dir, at, files.O_RDONLY | files.O_CREAT, 0o600, 0),
    statx: at => context.statx(dir, at, 0, 0x7ff, OUT),
    mknodat: at => context.mknodat(dir, at, 0o100600, 0, 0),
    mkdirat: at => context.mkdirat(dir, at, 0o700),
    symlinkat: at => context.symlinkat(put(context, OUT, 'x'), dir, at),
    'symlinkat target': at => context.symlinkat(at, dir, put(context, OUT, 'x')),
    linkat: at => context.linkat(dir, dir, at),
    unlinkat: at => context.unlinkat(dir, at, 0),
    renameat2: at => context.renameat2(dir, at, dir, put(context, OUT, 'x'), 0),
    'renameat2 new': at => context.renameat2(dir, put(context, OUT, 'file'), dir, at, 0),
    getxattr: at => context.getxattr(dir, at, OUT, 100),
    setxattr: at => context.setxattr(dir, at, OUT, 1, 0),
    removexattr: at => context.removexattr(dir, at),
    nameToHandle: at => context.nameToHandle(dir, at, OUT),
  }
  context.bytes.fill(0x61, 20_000)
  for (const [name, call] of Object.entries(calls)) {
    t.is(call(20_000), -E.ENAMETOOLONG, `${name}: longer than 4096`)
    for (const at of [ARENA - 4095, ARENA - 4000, ARENA - 1, ARENA])
      t.is(call(at), -E.EFAULT, `${name} at ${at}: runs off the arena`)
  }
  // The NUL as the 4097th byte is too late, as the 4096th it is the kernel's to judge.
  context.bytes[20_000 + 4096] = 0
  for (const [name, call] of Object.entries(calls)) t.is(call(20_000), -E.ENAMETOOLONG, name)
  context.bytes[20_000 + 4095] = 0
  t.is(calls.openat!(20_000), -E.ENAMETOOLONG, 'a component of 4095')
  t.is(calls.mkdirat!(20_000), -E.ENAMETOOLONG)
  t.deepEqual(readdirSync(folder), before)
  // A name that ends with the arena's last byte is whole.
  context.bytes[ARENA - 1] = 0
  context.bytes.set(Buffer.from('new'), ARENA - 4)
  t.is(context.mkdirat(dir, ARENA - 4, 0o700), 0)
  t.true(lstatSync(join(folder, 'new')).isDirectory())
  // 255 bytes are a name, 256 are none.
  t.is(context.mkdirat(dir, put(context, NAME, 'n'.repeat(255)), 0o700), 0)
  t.is(context.mkdirat(dir, put(context, NAME, 'n'.repeat(256)), 0o700), -E.ENAMETOOLONG)
  t.is(context.openat(dir, put(context, NAME, ''), files.O_RDONLY, 0, 0), -E.ENOENT)
})

test('openat: RESOLVE_ flags hold, unknown ones are refused, and the descriptor is close-on-exec', t => {
  const { context, dir, folder } = scene(t)
  symlinkSync('..', join(folder, 'up'))
  const RESOLVE_NO_SYMLINKS = 4
  const RESOLVE_BENEATH = 8
  const at = (name: string, resolve: number): number =>
    context.openat(dir, put(context, NAME, name), O_PATH, 0, resolve)
  const before = descriptors()
  t.is(at('up', RESOLVE_BENEATH), -E.EXDEV)
  t.is(at('..', RESOLVE_BENEATH), -E.EXDEV)
  t.is(at('/etc', RESOLVE_BENEATH), -E.EXDEV)
  t.is(at('up', RESOLVE_NO_SYMLINKS), -E.ELOOP)
  t.is(at('file', 2 ** 31), -E.EINVAL)
  t.is(at('missing', 0), -E.ENOENT)
  t.is(at('file/x', 0), -E.ENOTDIR)
  t.deepEqual(descriptors(), before)
  const fd = own(t, at('file', RESOLVE_BENEATH))
  const flags = /flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))![1]!
  t.not(Number.parseInt(flags, 8) & 0o2000000, 0)
})

// --- O_PATH descriptors -----------------------------------------------------------------------------

test('statx tells of the node itself, by descriptor and by name', t => {
  const s = scene(t)
  const { context, dir, folder } = s
  for (const kind of KINDS) {
    const host = lstatSync(join(folder, kind), { bigint: true })
    for (const byName of [false, true]) {
      context.bytes.fill(0, OUT, OUT + 256)
      t.is(
        byName
          ? context.statx(dir, put(context, NAME, kind), 0, 0x7ff, OUT)
          : context.statx(s.nodes[kind], EMPTY_PATH, 0, 0x7ff, OUT),
        0,
      )
      const stat = statx(context)
      t.is(stat.ino, host.ino, kind)
      t.is(BigInt(stat.mode), host.mode)
      t.is(stat.size, host.size)
      t.is(BigInt(stat.nlink), host.nlink)
      t.is(stat.mtime[0] * 1_000_000_000n + BigInt(stat.mtime[1]), host.mtimeNs)
    }
  }
  context.bytes.fill(0xee, OUT, OUT + 300)
  t.is(context.statx(dir, put(context, NAME, 'missing'), 0, 0x7ff, OUT), -E.ENOENT)
  t.is(context.statx(dir, EMPTY_PATH, 0, 2 ** 31, OUT), -E.EINVAL)
  t.is(context.statx(dir, EMPTY_PATH, 0, 0x7ff, ARENA - 255), -E.EFAULT)
  t.is(context.statx(dir, EMPTY_PATH, 0, 0x7ff, OUT), 0)
  t.is(context.bytes[OUT + 256], 0xee, 'and no byte more')
})

test('statfs writes 120 bytes and tells what the host does', t => {
  const s = scene(t)
  s.context.bytes.fill(0xee, OUT, OUT + 200)
  for (const kind of KINDS) t.is(s.context.statfs(s.nodes[kind], OUT), 0, kind)
  t.is(s.context.bytes[OUT + 120], 0xee)
  const bsize = s.context.view.getBigInt64(OUT + 8, true)
  const blocks = s.context.view.getBigUint64(OUT + 16, true)
  const bfree = s.context.view.getBigUint64(OUT + 24, true)
  t.true(bsize > 0n && bfree <= blocks)
  t.true(s.context.view.getBigInt64(OUT + 64, true) >= 255n, 'f_namelen')
  t.is(s.context.statfs(s.nodes.file, ARENA - 119), -E.EFAULT)
})

test('readlink: a link’s target, whole or not at all', t => {
  const s = scene(t)
  const { context } = s
  const target = 'nowhere/at/all'
  context.bytes.fill(0xee, OUT, OUT + 100)
  t.is(context.readlink(s.nodes.link, OUT, 100), target.length)
  t.is(Buffer.from(context.bytes.subarray(OUT, OUT + target.length)).toString(), target)
  t.is(context.bytes[OUT + target.length], 0xee, 'no NUL')
  t.is(context.readlink(s.nodes.link, OUT, target.length), target.length, 'it just fits')
  t.is(context.readlink(s.nodes.link, OUT, target.length - 1), -E.ENAMETOOLONG)
  t.is(context.readlink(s.nodes.link, OUT, 1), -E.ENAMETOOLONG)
  t.is(context.readlink(s.nodes.link, OUT, 0), -E.EINVAL)
  for (const kind of ['file', 'dir', 'fifo'] as const)
    t.is(context.readlink(s.nodes[kind], OUT, 100), -E.EINVAL, kind)
  const longest = 'x/'.repeat(2047)
  t.is(context.symlinkat(put(context, OTHER, longest), s.dir, put(context, NAME, 'long')), 0)
  const long = own(t, context.openat(s.dir, NAME, O_PATH | files.O_NOFOLLOW, 0, 0))
  t.is(context.readlink(long, OUT, 4096), longest.length)
  t.is(Buffer.from(context.bytes.subarray(OUT, OUT + longest.length)).toString(), longest)
})

test('chmod changes the node itself; a link has no mode', t => {
  const s = scene(t)
  for (const kind of ['file', 'dir', 'fifo'] as const) {
    t.is(s.context.chmod(s.nodes[kind], 0o711), 0, kind)
    t.is(lstatSync(join(s.folder, kind)).mode & 0o7777, 0o711)
  }
  const before = lstatSync(join(s.folder, 'link')).mode
  t.is(s.context.chmod(s.nodes.link, 0o711), -E.EOPNOTSUPP)
  t.is(lstatSync(join(s.folder, 'link')).mode, before)
  symlinkSync('file', join(s.folder, 'to-file'))
  put(s.context, NAME, 'to-file')
  const link = own(t, s.context.openat(s.dir, NAME, O_PATH | files.O_NOFOLLOW, 0, 0))
  t.is(s.context.chmod(link, 0o600), -E.EOPNOTSUPP)
  t.is(lstatSync(join(s.folder, 'file')).mode & 0o777, 0o711, 'nor is the target touched')
})

test('chown: of the node itself, either id, or EPERM without the right', t => {
  const s = scene(t)
  for (const kind of KINDS) {
    const node = s.nodes[kind]
    const path = join(s.folder, kind)
    const first = lstatSync(path)
    t.is(s.context.chown(node, KEEP_ID, KEEP_ID), 0, kind)
    t.like(lstatSync(path), { uid: first.uid, gid: first.gid })
    if (ROOT) {
      t.is(s.context.chown(node, 1234, KEEP_ID), 0)
      t.like(lstatSync(path), { uid: 1234, gid: first.gid })
      t.is(s.context.chown(node, KEEP_ID, 4321), 0)
      t.like(lstatSync(path), { uid: 1234, gid: 4321 })
      t.is(s.context.chown(node, 4_000_000_000, 4_000_000_001), 0)
      t.like(lstatSync(path), { uid: 4_000_000_000, gid: 4_000_000_001 })
    } else t.is(s.context.chown(node, 1234, KEEP_ID), -E.EPERM)
  }
  for (const id of [-2, 0.5, 2 ** 32, Number.NaN])
    t.is(s.context.chown(s.nodes.file, id, KEEP_ID), -E.EINVAL, `${id}`)
})

test('utimens: of the node itself, before 1970, now, and left alone', t => {
  const s = scene(t)
  for (const kind of KINDS) {
    t.is(s.context.utimens(s.nodes[kind], 1000, 1, 2000, 999_999_999), 0, kind)
    let stat = statOf(t, s, kind)
    t.deepEqual(
      [stat.atime, stat.mtime],
      [
        [1000n, 1],
        [2000n, 999_999_999],
      ],
      kind,
    )
    t.is(s.context.utimens(s.nodes[kind], -5, 5, 0, UTIME_OMIT), 0)
    stat = statOf(t, s, kind)
    t.deepEqual(
      [stat.atime, stat.mtime],
      [
        [-5n, 5],
        [2000n, 999_999_999],
      ],
      kind,
    )
    t.is(s.context.utimens(s.nodes[kind], 0, UTIME_OMIT, 0, UTIME_NOW), 0)
    stat = statOf(t, s, kind)
    t.deepEqual(stat.atime, [-5n, 5])
    t.true(Math.abs(Number(stat.mtime[0]) - Date.now() / 1000) < 1000)
    t.is(s.context.utimens(s.nodes[kind], 1, 1_000_000_000, 1, 0), -E.EINVAL)
    t.deepEqual(statOf(t, s, kind).atime, [-5n, 5])
  }
})

test('linkat: a second name for the node itself', t => {
  const s = scene(t)
  const { context, dir, folder } = s
  for (const kind of ['file', 'link', 'fifo'] as const) {
    const name = `second-${kind}`
    t.is(context.linkat(s.nodes[kind], dir, put(context, NAME, name)), 0, kind)
    t.is(lstatSync(join(folder, name)).ino, lstatSync(join(folder, kind)).ino)
    t.is(lstatSync(join(folder, kind)).nlink, 2)
    t.is(context.linkat(s.nodes[kind], dir, NAME), -E.EEXIST)
  }
  t.is(context.linkat(s.nodes.dir, dir, put(context, NAME, 'd2')), -E.EPERM)
  t.is(context.linkat(s.nodes.file, s.nodes.file, put(context, NAME, 'x')), -E.ENOTDIR)
  // A node whose last name is gone cannot come back.
  writeFileSync(join(folder, 'gone'), '')
  const gone = own(t, context.openat(dir, put(context, NAME, 'gone'), O_PATH, 0, 0))
  t.is(context.unlinkat(dir, NAME, 0), 0)
  t.is(context.linkat(gone, dir, NAME), -E.ENOENT)
})

test('faccess asks for the node itself', t => {
  const s = scene(t)
  t.is(s.context.faccess(s.nodes.file, 0), 0)
  t.is(s.context.faccess(s.nodes.file, 4 | 2), 0)
  t.is(s.context.faccess(s.nodes.file, 1), -E.EACCES, 'no x bit, not even for root')
  t.is(s.context.faccess(s.nodes.dir, 7), 0)
  t.is(s.context.faccess(s.nodes.fifo, 6), 0)
  t.is(s.context.faccess(s.nodes.link, 4), 0, 'its target does not exist')
  t.is(s.context.faccess(s.nodes.file, 8), -E.EINVAL)
  if (ROOT) return
  chmodSync(join(s.folder, 'file'), 0)
  t.is(s.context.faccess(s.nodes.file, 4), -E.EACCES)
})

test('reopen opens the node behind an O_PATH descriptor, and no link', t => {
  const s = scene(t)
  const { context } = s
  const out = own(t, context.reopen(s.nodes.file, files.O_RDWR))
  t.is(readFileSync(out, 'latin1'), 'content')
  t.is(context.ftruncate(out, 3), 0)
  t.is(readFileSync(join(s.folder, 'file'), 'latin1'), 'con')
  own(t, context.reopen(s.nodes.dir, files.O_RDONLY | files.O_DIRECTORY))
  t.is(context.reopen(s.nodes.dir, files.O_RDWR), -E.EISDIR)
  t.is(context.reopen(s.nodes.file, files.O_RDONLY | files.O_DIRECTORY), -E.ENOTDIR)
  t.is(context.reopen(s.nodes.link, files.O_RDONLY), -E.ELOOP)
  const fifo = own(t, context.reopen(s.nodes.fifo, files.O_RDWR | files.O_NONBLOCK))
  t.true(lstatSync(`/proc/self/fd/${fifo}`).isSymbolicLink())
  t.is(context.reopen(-1, files.O_RDONLY), -E.EBADF)
  // The name is not looked up again.
  put(context, NAME, 'file')
  t.is(context.renameat2(s.dir, NAME, s.dir, put(context, OTHER, 'moved'), 0), 0)
  writeFileSync(join(s.folder, 'file'), 'another')
  t.is(readFileSync(own(t, context.reopen(s.nodes.file, files.O_RDONLY)), 'latin1'), 'con')
  // O_PATH descriptors themselves give no data.
  t.is(context.ftruncate(s.nodes.file, 0), -E.EBADF)
  t.is(context.fsync(s.nodes.file, 0), -E.EBADF)
})

test('extended attributes of files and directories, through O_PATH descriptors', t => {
  const s = scene(t)
  const { context } = s
  const NAME_AT = put(context, NAME, 'user.virtiofsd')
  context.bytes.set(Buffer.from('value'), OUT)
  if (context.setxattr(s.nodes.file, NAME_AT, OUT, 5, 0) === -E.EOPNOTSUPP) {
    t.log('the host has no user attributes here')
    t.pass()
    return
  }
  for (const kind of ['file', 'dir'] as const) {
    const node = s.nodes[kind]
    if (kind === 'file') t.is(context.removexattr(node, NAME_AT), 0)
    t.is(context.getxattr(node, NAME_AT, OUT, 100), -E.ENODATA)
    t.is(context.listxattr(node, OUT, 100), 0)
    context.bytes.set(Buffer.from('value'), OUT)
    t.is(context.setxattr(node, NAME_AT, OUT, 5, 2), -E.ENODATA, 'XATTR_REPLACE')
    t.is(context.setxattr(node, NAME_AT, OUT, 5, 1), 0, 'XATTR_CREATE')
    t.is(context.setxattr(node, NAME_AT, OUT, 5, 1), -E.EEXIST)
    t.is(context.setxattr(node, NAME_AT, OUT, 5, 4), -E.EINVAL)
    context.bytes.fill(0xee, OUT, OUT + 100)
    t.is(context.getxattr(node, NAME_AT, OUT, 0), 5, 'the size')
    t.is(context.bytes[OUT], 0xee)
    t.is(context.getxattr(node, NAME_AT, OUT, 4), -E.ERANGE)
    t.is(context.getxattr(node, NAME_AT, OUT, 5), 5)
    t.is(Buffer.from(context.bytes.subarray(OUT, OUT + 6)).toString('latin1'), 'value\xee')
    t.is(context.listxattr(node, OUT, 0), 15)
    t.is(context.listxattr(node, OUT, 14), -E.ERANGE)
    t.is(context.listxattr(node, OUT, 15), 15)
    t.is(Buffer.from(context.bytes.subarray(OUT, OUT + 15)).toString(), 'user.virtiofsd\0')
    t.is(context.setxattr(node, NAME_AT, OUT, 0, 0), 0, 'an empty value')
    t.is(context.getxattr(node, NAME_AT, OUT, 100), 0)
    t.is(context.removexattr(node, NAME_AT), 0)
    t.is(context.removexattr(node, NAME_AT), -E.ENODATA)
  }
  // User attributes belong to files and directories; a link's target is never reached.
  symlinkSync('file', join(s.folder, 'to-file'))
  put(context, OTHER, 'to-file')
  const link = own(t, context.openat(s.dir, OTHER, O_PATH | files.O_NOFOLLOW, 0, 0))
  for (const node of [s.nodes.fifo, link])
    t.is(context.setxattr(node, NAME_AT, OUT, 5, 0), -E.EPERM)
  t.is(context.getxattr(s.nodes.file, NAME_AT, OUT, 100), -E.ENODATA)
  for (const bad of ['nonsense', 'user.', `user.${'x'.repeat(251)}`])
    t.true(context.setxattr(s.nodes.file, put(context, NAME, bad), OUT, 1, 0) < 0, bad)
  t.is(context.getxattr(s.nodes.file, NAME_AT, ARENA - 4, 5), -E.EFAULT)
})

test('mknodat, unlinkat, renameat2: kinds and flags', t => {
  const s = scene(t)
  const { context, dir, folder } = s
  const mask = process.umask(0)
  t.teardown(() => process.umask(mask))
  t.is(context.mknodat(dir, put(context, NAME, 'fifo2'), 0o010640, 0, 0), 0)
  t.is(lstatSync(join(folder, 'fifo2')).mode, 0o010640)
  t.is(context.mknodat(dir, put(context, NAME, 'sock'), 0o140600, 0, 0), 0)
  t.true(lstatSync(join(folder, 'sock')).isSocket())
  t.is(context.mknodat(dir, put(context, NAME, 'dir2'), 0o040700, 0, 0), -E.EPERM)
  const device = context.mknodat(dir, put(context, NAME, 'null'), 0o020666, 1, 3)
  if (device === 0) t.is(lstatSync(join(folder, 'null')).rdev, (1 << 8) | 3)
  else t.is(device, -E.EPERM)

  t.is(context.unlinkat(dir, put(context, NAME, 'dir'), 0), -E.EISDIR)
  t.is(context.unlinkat(dir, put(context, NAME, 'file'), 0x200), -E.ENOTDIR)
  t.is(context.unlinkat(dir, NAME, 4), -E.EINVAL)
  t.is(context.unlinkat(dir, put(context, NAME, 'dir'), 0x200), 0)

  const rename = (from: string, to: string, flags: number): number =>
    context.renameat2(dir, put(context, NAME, from), dir, put(context, OTHER, to), flags)
  t.is(rename('file', 'fifo', 1), -E.EEXIST, 'RENAME_NOREPLACE')
  const [one, two] = ['file', 'fifo'].map(name => lstatSync(join(folder, name)).ino)
  t.is(rename('file', 'fifo', 2), 0, 'RENAME_EXCHANGE')
  t.is(lstatSync(join(folder, 'file')).ino, two)
  t.is(lstatSync(join(folder, 'fifo')).ino, one)
  t.is(rename('file', 'fifo', 3), -E.EINVAL)
  t.is(rename('missing', 'x', 0), -E.ENOENT)
  t.is(rename('link', 'moved', 0), 0)
  t.is(readlinkSync(join(folder, 'moved')), 'nowhere/at/all')
})

// --- directories ------------------------------------------------------------------------------------

interface Entry {
  readonly name: string
  readonly ino: bigint
  readonly type: number
  /** Low and high words of d_off. */
  readonly cookie: [number, number]
}

function entries(context: Context, bytes: number): Entry[] {
  const found: Entry[] = []
  for (let at = OUT; at < OUT + bytes; at += context.view.getUint16(at + 16, true)) {
    const end = context.bytes.indexOf(0, at + 19)
    found.push({
      name: Buffer.from(context.bytes.subarray(at + 19, end)).toString(),
      ino: context.view.getBigUint64(at, true),
      type: context.bytes[at + 18]!,
      cookie: [context.view.getUint32(at + 8, true), context.view.getUint32(at + 12, true)],
    })
  }
  return found
}

test('getdents64 goes on from every cookie', t => {
  const { context, folder } = scene(t)
  for (let i = 0; i < 200; i++) writeFileSync(join(folder, `name-${i}-${'x'.repeat(i)}`), '')
  const dir = open(t, folder, files.O_RDONLY | files.O_DIRECTORY)
  // In small pieces, without seeking.
  const all: Entry[] = []
  for (;;) {
    const bytes = context.getdents64(dir, OUT, 700, 0, 0, 0)
    t.true(bytes >= 0 && bytes <= 700)
    if (bytes === 0) break
    all.push(...entries(context, bytes))
  }
  t.deepEqual(all.map(entry => entry.name).sort(), [...readdirSync(folder), '.', '..'].sort())
  t.is(context.getdents64(dir, OUT, 700, 0, 0, 0), 0, 'the end stays the end')
  // From each cookie, in a mixed order, what comes next is the same.
  for (let i = 0; i < all.length; i++) {
    const from = (i * 37) % all.length
    const bytes = context.getdents64(dir, OUT, 700, 1, ...all[from]!.cookie)
    const next = entries(context, bytes)
    if (from === all.length - 1) t.is(bytes, 0)
    else t.deepEqual(next, all.slice(from + 1, from + 1 + next.length), all[from]!.name)
  }
  t.is(entries(context, context.getdents64(dir, OUT, 700, 1, 0, 0))[0]!.name, all[0]!.name)
  for (const entry of all.filter(one => one.name !== '..'))
    t.is(entry.ino, lstatSync(join(folder, entry.name), { bigint: true }).ino)
})

test('getdents64: bad buffers, bad descriptors, cookies that were never given', t => {
  const s = scene(t)
  const { context } = s
  t.is(context.getdents64(s.dir, OUT, 10, 0, 0, 0), -E.EINVAL, 'too small for an entry')
  t.is(context.getdents64(s.dir, OUT, 0, 0, 0, 0), -E.EINVAL)
  t.is(context.getdents64(s.dir, ARENA - 100, 101, 0, 0, 0), -E.EFAULT)
  t.is(context.getdents64(s.nodes.dir, OUT, 700, 0, 0, 0), -E.EBADF, 'O_PATH')
  t.is(context.getdents64(own(t, native.memfd('f', 1)), OUT, 700, 0, 0, 0), -E.ENOTDIR)
  for (const [low, high] of [
    [1, 0],
    [0xffff_ffff, 0],
    [0, 0x7fff_ffff],
    [0xffff_ffff, 0x7fff_ffff],
    [0, 0x8000_0000],
    [0xffff_ffff, 0xffff_ffff],
  ] as const) {
    const answer = context.getdents64(s.dir, OUT, 4096, 1, low, high)
    t.true(
      Number.isInteger(answer) && answer <= 4096 && answer > -4096,
      `${low} ${high}: ${answer}`,
    )
  }
  t.true(context.getdents64(s.dir, OUT, 4096, 1, 0, 0) > 0, 'and it still reads')
})

// --- ioctl ------------------------------------------------------------------------------------------

const FS_IOC_GETFLAGS = 0x80086601
const FS_IOC_SETFLAGS = 0x40086602
const FS_IOC_GETVERSION = 0x80087601
const FS_IOC_FSGETXATTR = 0x801c581f
const FS_IOC_FSSETXATTR = 0x401c5820
const FS_IOC_ENABLE_VERITY = 0x40806685
const FS_IOC_MEASURE_VERITY = 0xc0046686

test('ioctl: known commands only', t => {
  const s = scene(t)
  const { context } = s
  const fd = open(t, join(s.folder, 'file'), files.O_RDWR)
  context.bytes.fill(0xee, OUT, OUT + 256)
  for (const command of [
    0,
    1,
    0x5401, // TCGETS
    0x541b, // FIONREAD
    0x40049409, // FICLONE
    0xc0206611, // FS_IOC_FIEMAP
    0x8008_6602,
    FS_IOC_GETFLAGS - 1,
    2 ** 32 - 1,
  ])
    t.is(context.ioctl(fd, command, OUT, 256), -E.ENOTTY, command.toString(16))
  t.deepEqual([...new Set(context.bytes.subarray(OUT, OUT + 256))], [0xee])
  const answer = context.ioctl(fd, FS_IOC_GETFLAGS, OUT, 8)
  if (answer === -E.ENOTTY || answer === -E.EOPNOTSUPP) t.log('the host has no flags here')
  else {
    t.is(answer, 0)
    t.not(context.view.getInt32(OUT, true), 0xeeee_eeee | 0)
  }
  t.is(context.ioctl(s.nodes.file, FS_IOC_GETFLAGS, OUT, 8), -E.EBADF, 'O_PATH')
})

test('ioctl: an argument that is too short is EINVAL, one outside the arena EFAULT', t => {
  const s = scene(t)
  const { context } = s
  const fd = open(t, join(s.folder, 'file'), files.O_RDWR)
  context.bytes.fill(0, OUT, OUT + 4096)
  for (const [command, least] of [
    [FS_IOC_GETFLAGS, 4],
    [FS_IOC_SETFLAGS, 4],
    [FS_IOC_GETVERSION, 4],
    [FS_IOC_FSGETXATTR, 28],
    [FS_IOC_FSSETXATTR, 28],
    [FS_IOC_ENABLE_VERITY, 128],
    [FS_IOC_MEASURE_VERITY, 4],
  ] as const) {
    const name = command.toString(16)
    for (const bytes of [0, 1, least - 1])
      t.is(context.ioctl(fd, command, OUT, bytes), -E.EINVAL, name)
    t.is(context.ioctl(fd, command, ARENA - least + 1, least), -E.EFAULT, name)
  }
  const { view } = context
  // MEASURE_VERITY: the digest's room is part of the argument.
  view.setUint16(OUT + 2, 64, true)
  t.is(context.ioctl(fd, FS_IOC_MEASURE_VERITY, OUT, 4 + 63), -E.EINVAL)
  t.not(context.ioctl(fd, FS_IOC_MEASURE_VERITY, OUT, 4 + 64), -E.EINVAL)
  // ENABLE_VERITY: salt and signature, and no overflow of their sum.
  for (const [salt, signature, extra] of [
    [33, 0, 32],
    [0, 33, 32],
    [16, 17, 32],
    [0xffff_ffff, 0xffff_ffff, 32],
    [1, 0xffff_ffff, 32],
    [32, 1, 32],
  ] as const) {
    context.bytes.fill(0, OUT, OUT + 256)
    view.setUint32(OUT, 1, true)
    view.setUint32(OUT + 4, 1, true)
    view.setUint32(OUT + 8, 4096, true)
    view.setUint32(OUT + 12, salt, true)
    view.setUint32(OUT + 24, signature, true)
    t.is(
      context.ioctl(fd, FS_IOC_ENABLE_VERITY, OUT, 128 + extra),
      -E.EINVAL,
      `${salt} ${signature}`,
    )
  }
})

// --- handles ----------------------------------------------------------------------------------------

test('a handle finds its file again, also under another name', t => {
  const s = scene(t)
  const { context, dir } = s
  const HANDLE = 16_384
  context.bytes.fill(0xee, HANDLE, HANDLE + 200)
  const mount = context.nameToHandle(dir, put(context, NAME, 'file'), HANDLE)
  if (mount === -E.EOPNOTSUPP || mount === -E.EPERM) {
    t.log('the host gives no handles here')
    t.pass()
    return
  }
  t.true(mount >= 0)
  const bytes = context.view.getUint32(HANDLE, true)
  t.true(bytes > 0 && bytes <= 128)
  t.is(context.bytes[HANDLE + 136], 0xee)
  const mine = Buffer.from(context.bytes.subarray(HANDLE, HANDLE + 8 + bytes))
  t.is(context.nameToHandle(s.nodes.file, EMPTY_PATH, HANDLE + 400), mount)
  t.deepEqual(Buffer.from(context.bytes.subarray(HANDLE + 400, HANDLE + 408 + bytes)), mine)
  t.is(context.nameToHandle(dir, put(context, NAME, 'missing'), HANDLE + 400), -E.ENOENT)
  t.is(context.nameToHandle(s.nodes.link, EMPTY_PATH, HANDLE + 400), mount)
  t.notDeepEqual(Buffer.from(context.bytes.subarray(HANDLE + 400, HANDLE + 408 + bytes)), mine)

  put(context, NAME, 'file')
  t.is(context.renameat2(dir, NAME, dir, put(context, OTHER, 'moved'), 0), 0)
  const fd = context.openByHandle(dir, HANDLE, files.O_RDONLY)
  if (fd === -E.EPERM) {
    t.log('not permitted to open by handle')
    return
  }
  t.is(readFileSync(own(t, fd), 'latin1'), 'content')

  // Handles that are none.
  const open = (): number => {
    const answer = context.openByHandle(dir, HANDLE, files.O_RDONLY)
    if (answer >= 0) native.closeFd(answer)
    return answer
  }
  for (const length of [129, 2 ** 31, 2 ** 32 - 1]) {
    context.view.setUint32(HANDLE, length, true)
    t.is(open(), -E.EINVAL, `${length} bytes`)
  }
  context.view.setUint32(HANDLE, 0, true)
  t.true(open() < 0)
  context.view.setUint32(HANDLE, bytes, true)
  t.true(open() >= 0)
  context.view.setInt32(HANDLE + 4, 0x7777, true)
  t.true(open() < 0, 'an unknown type')
  context.bytes.set(mine, ARENA - 8 - bytes)
  const last = context.openByHandle(dir, ARENA - 8 - bytes, files.O_RDONLY)
  t.true(last >= 0, 'the arena ends with the handle')
  native.closeFd(last)
  context.view.setUint32(ARENA - 8 - bytes, bytes + 4, true)
  t.is(context.openByHandle(dir, ARENA - 8 - bytes, files.O_RDONLY), -E.EFAULT)
  context.bytes.set(mine, HANDLE)
  t.is(context.unlinkat(dir, put(context, NAME, 'moved'), 0), 0)
  native.closeFd(fd)
})

// --- locks ------------------------------------------------------------------------------------------

const [GETLK, SETLK] = [36, 37]
const [RDLCK, WRLCK, UNLCK] = [0, 1, 2]

test('open-file-description locks conflict between descriptions, by ranges', t => {
  const s = scene(t)
  const { context } = s
  const path = join(s.folder, 'file')
  const a = open(t, path, files.O_RDWR)
  const b = open(t, path, files.O_RDWR)
  const found = (): (number | bigint)[] => [
    context.view.getInt32(OUT, true),
    context.view.getInt32(OUT + 4, true),
    context.view.getBigInt64(OUT + 8, true),
    context.view.getBigInt64(OUT + 16, true),
  ]
  t.is(context.ofdLock(a, SETLK, WRLCK, 10, 10, 0), 0)
  t.is(context.ofdLock(b, SETLK, WRLCK, 15, 10, 0), -E.EAGAIN)
  t.is(context.ofdLock(b, SETLK, RDLCK, 19, 1, 0), -E.EAGAIN)
  t.is(context.ofdLock(b, SETLK, WRLCK, 20, 5, 0), 0, 'right behind')
  t.is(context.ofdLock(b, SETLK, WRLCK, 0, 10, 0), 0, 'right before')
  context.bytes.fill(0xee, OUT, OUT + 32)
  t.is(context.ofdLock(b, GETLK, RDLCK, 12, 0, OUT), 0)
  t.deepEqual(found(), [WRLCK, -1, 10n, 10n])
  t.is(context.bytes[OUT + 24], 0xee)
  t.is(context.ofdLock(b, GETLK, RDLCK, 30, 5, OUT), 0)
  t.is(found()[0], UNLCK)
  t.is(context.ofdLock(a, SETLK, UNLCK, 0, 0, 0), 0)
  t.is(context.ofdLock(b, SETLK, RDLCK, 0, 0, 0), 0, 'to the end')
  t.is(context.ofdLock(a, SETLK, RDLCK, 5, 0, 0), 0, 'readers share')
  t.is(context.ofdLock(a, SETLK, WRLCK, 5, 1, 0), -E.EAGAIN)
  t.is(context.ofdLock(a, SETLK, WRLCK, 2 ** 53 - 1, 1, 0), -E.EAGAIN, 'far away, too')
  // What is no lock.
  t.is(context.ofdLock(a, SETLK, 3, 0, 0, 0), -E.EINVAL)
  for (const command of [5, 6, 7, 0, 1, 35, 39, 1030])
    t.is(context.ofdLock(a, command, RDLCK, 0, 0, 0), -E.EINVAL, `command ${command}`)
  t.is(context.ofdLock(a, SETLK, RDLCK, -1, 1, 0), -E.EINVAL)
  t.is(context.ofdLock(a, GETLK, WRLCK, 0, 0, ARENA - 23), -E.EFAULT)
  const readOnly = open(t, path, files.O_RDONLY)
  t.is(context.ofdLock(readOnly, SETLK, WRLCK, 0, 1, 0), -E.EBADF)
  t.is(context.ofdLock(s.nodes.file, SETLK, RDLCK, 0, 1, 0), -E.EBADF)
})

test('flock conflicts between descriptions', t => {
  const s = scene(t)
  const { context } = s
  const path = join(s.folder, 'file')
  const a = open(t, path, files.O_RDWR)
  const b = open(t, path, files.O_RDWR)
  const [SH, EX, NB, UN] = [1, 2, 4, 8]
  t.is(context.flock(a, SH | NB), 0)
  t.is(context.flock(b, SH | NB), 0)
  t.is(context.flock(a, EX | NB), -E.EAGAIN)
  t.is(context.flock(b, UN), 0)
  t.is(context.flock(a, EX | NB), 0)
  t.is(context.flock(b, SH | NB), -E.EAGAIN)
  const copy = native.dupFd(a)
  t.is(context.flock(copy, UN), 0, 'a copy is the same description')
  t.is(native.closeFd(copy), 0)
  t.is(context.flock(b, EX | NB), 0)
  t.is(context.flock(b, 3), -E.EINVAL)
})

// --- data -------------------------------------------------------------------------------------------

test('fallocate, ftruncate, lseek and copyFileRange on a file', t => {
  const s = scene(t)
  const { context } = s
  const path = join(s.folder, 'file')
  const fd = open(t, path, files.O_RDWR)
  t.is(context.ftruncate(fd, 1_000_000), 0)
  t.is(lstatSync(path).size, 1_000_000)
  t.is(context.lseek(fd, 0, 2), 1_000_000)
  t.is(context.lseek(fd, -10, 1), 999_990)
  t.is(context.lseek(fd, -1, 0), -E.EINVAL)
  t.is(context.lseek(fd, 0, 3), 0, 'SEEK_DATA')
  const hole = context.lseek(fd, 0, 4)
  t.true(hole > 0 && hole <= 1_000_000)
  t.is(context.lseek(fd, 1_000_000, 3), -E.ENXIO)
  t.is(context.fallocate(fd, 0, 0, 0), -E.EINVAL)
  t.is(context.fallocate(fd, 0x4000, 0, 1), -E.EOPNOTSUPP)
  const answer = context.fallocate(fd, 0, 1_000_000, 4096)
  t.true(answer === 0 || answer === -E.EOPNOTSUPP)
  if (answer === 0) t.is(lstatSync(path).size, 1_004_096)
  t.is(context.ftruncate(fd, 7), 0)
  const to = open(t, join(s.folder, 'copy'), files.O_RDWR | files.O_CREAT)
  t.is(context.copyFileRange(fd, 2, to, 1, 100), 5)
  t.is(readFileSync(join(s.folder, 'copy'), 'latin1'), '\0ntent')
  t.is(context.copyFileRange(fd, 7, to, 0, 100), 0, 'from the end')
  t.true(context.copyFileRange(fd, 0, fd, 1, 5) < 0, 'onto itself')
  t.is(context.fsync(fd, 0), 0)
  t.is(context.fsync(fd, 1), 0)
  t.is(context.fsync(own(t, native.eventFd()), 0), -E.EINVAL)
})

test('syncfs closes the descriptor when told to, whatever the result', t => {
  const { context } = scene(t)
  const file = own(t, native.memfd('f', 1))
  const before = descriptors().length
  const copy = native.dupFd(file)
  t.is(context.syncfs(copy, 0), 0)
  t.is(context.syncfs(copy, 1), 0)
  t.is(native.closeFd(copy), -E.EBADF)
  t.is(context.syncfs(copy, 1), -E.EBADF)
  t.is(descriptors().length, before)
})

test('memfdCreate gives an empty file', t => {
  const { context } = scene(t)
  const fd = own(t, context.memfdCreate())
  t.is(context.lseek(fd, 0, 2), 0)
  t.is(context.ftruncate(fd, 10), 0)
  t.is(readFileSync(`/proc/self/fd/${fd}`).length, 10)
})
