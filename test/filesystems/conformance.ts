/** What every back end must do, called directly. Differences are asked of `capabilities`, never of names. */
import type { ExecutionContext } from 'ava'
import type { Harness } from './harness.js'

export type Case = (t: ExecutionContext, h: Harness) => void

const ENOENT = -2
const EBADF = -9
const EEXIST = -17
const ENOTDIR = -20
const EISDIR = -21
const EINVAL = -22
const ENOTEMPTY = -39
const ENODATA = -61
const ERANGE = -34
const ESTALE = -116
const ENXIO = -6
const NOREPLACE = 1
const EXCHANGE = 2
const O_APPEND = 0o2000
const O_EXCL = 0o200
const O_TRUNC = 0o1000

/** A file with contents, closed; its nodeid with one lookup. */
function file(h: Harness, parent: number, name: string, contents = name): number {
  const { nodeid, fh } = h.create(parent, name)
  if (contents !== '') h.write(nodeid, fh, 0, contents)
  h.release(nodeid, fh)
  return nodeid
}
function contents(h: Harness, nodeid: number): string {
  const fh = h.open(nodeid, 0)
  if (fh < 0) return `errno ${-fh}`
  const text = h.readText(nodeid, fh)
  h.release(nodeid, fh)
  return text
}

export const CONFORMANCE: Readonly<Record<string, Case>> = {
  'the root is a directory with node id 1': (t, h) => {
    t.is(h.stat(1).mode & 0o170000, 0o040000)
  },
  'a name that is not there answers ENOENT': (t, h) => {
    t.is(h.lookup(1, 'nothing'), ENOENT)
  },
  'a lookup in a file answers ENOTDIR': (t, h) => {
    t.is(h.lookup(file(h, 1, 'f'), 'x'), ENOTDIR)
  },
  'the same name twice is the same node': (t, h) => {
    const nodeid = file(h, 1, 'f')
    t.is(h.lookup(1, 'f'), nodeid)
    h.forget(nodeid, 2)
    t.is(h.fs.nodeCount, 1)
  },
  'a forgotten node answers ESTALE, and so do numbers that were never given out': (t, h) => {
    const nodeid = file(h, 1, 'f')
    h.forget(nodeid)
    for (const hostile of [
      nodeid,
      0,
      2,
      99,
      -1,
      0.5,
      Number.NaN,
      2 ** 32 + 1,
      2 ** 53,
      2 ** 64,
      Number.POSITIVE_INFINITY,
    ]) {
      t.is(h.getattr(hostile), ESTALE, `node ${hostile}`)
      t.is(h.open(hostile), ESTALE, `node ${hostile}`)
      t.is(h.lookup(hostile, 'x'), ESTALE, `node ${hostile}`)
    }
  },
  'forgetting more than there is counts as all, and never the root': (t, h) => {
    const nodeid = file(h, 1, 'f')
    h.forget(nodeid, 2 ** 53)
    h.forget(nodeid, 1)
    h.forget(1, 2 ** 53)
    t.is(h.fs.nodeCount, 1)
    t.is(typeof h.getattr(1), 'object')
  },
  'CREATE makes a file with the mode asked for': (t, h) => {
    const { nodeid, fh } = h.create(1, 'f', 0o640)
    t.is(h.stat(nodeid).mode, 0o100640)
    t.is(h.stat(nodeid).nlink, 1)
    t.is(h.stat(nodeid).sizeBytes, 0)
    h.release(nodeid, fh)
  },
  'the umask of the caller is applied': (t, h) => {
    h.request.umask = 0o027
    const { nodeid, fh } = h.create(1, 'f', 0o777)
    const dir = h.mkdir(1, 'd', 0o777)
    h.request.umask = 0
    t.is(h.stat(nodeid).mode & 0o777, 0o750)
    t.is(h.stat(dir).mode & 0o777, 0o750)
    h.release(nodeid, fh)
  },
  'CREATE with O_EXCL of a name that is there answers EEXIST, without it opens': (t, h) => {
    const nodeid = file(h, 1, 'f', 'old')
    t.is(h.create(1, 'f', 0o644, 0o102 | O_EXCL).nodeid, EEXIST)
    const again = h.create(1, 'f')
    t.is(again.nodeid, nodeid)
    t.is(h.readText(nodeid, again.fh), 'old')
    h.release(nodeid, again.fh)
  },
  'CREATE of a directory that is there fails and leaves no lookup': (t, h) => {
    const dir = h.mkdir(1, 'd')
    t.true(h.create(1, 'd').nodeid < 0)
    h.forget(dir)
    t.is(h.fs.nodeCount, 1)
  },
  'what was written is read back, at any offset and across pieces': (t, h) => {
    const { nodeid, fh } = h.create(1, 'f')
    const data = Uint8Array.from({ length: 100_000 }, (_, i) => (i * 7) & 0xff)
    t.is(h.write(nodeid, fh, 0, data), data.length)
    t.deepEqual(h.read(nodeid, fh, 0, 200_000), data)
    t.deepEqual(h.read(nodeid, fh, 99_990, 100), data.slice(99_990))
    t.deepEqual(h.read(nodeid, fh, 100_000, 100), new Uint8Array(0))
    t.deepEqual(h.read(nodeid, fh, 10 ** 9, 100), new Uint8Array(0))
    h.release(nodeid, fh)
  },
  'a write past the end leaves zeros between': (t, h) => {
    const { nodeid, fh } = h.create(1, 'f')
    h.write(nodeid, fh, 10, 'end')
    t.is(h.readText(nodeid, fh), `${'\0'.repeat(10)}end`)
    t.is(h.stat(nodeid).sizeBytes, 13)
    h.release(nodeid, fh)
  },
  'O_APPEND writes go to the end': (t, h) => {
    const nodeid = file(h, 1, 'f', 'one')
    const fh = h.open(nodeid, 1 | O_APPEND)
    h.write(nodeid, fh, 0, 'two')
    h.release(nodeid, fh)
    t.is(contents(h, nodeid), 'onetwo')
  },
  'O_TRUNC empties the file': (t, h) => {
    const nodeid = file(h, 1, 'f', 'contents')
    h.release(nodeid, h.open(nodeid, 1 | O_TRUNC))
    t.is(h.stat(nodeid).sizeBytes, 0)
  },
  'a handle for reading does not write, one for writing does not read': (t, h) => {
    const nodeid = file(h, 1, 'f', 'x')
    const reading = h.open(nodeid, 0)
    const writing = h.open(nodeid, 1)
    t.is(h.write(nodeid, reading, 0, 'y'), EBADF)
    t.is(h.read(nodeid, writing, 0, 1), EBADF)
    h.release(nodeid, reading)
    h.release(nodeid, writing)
  },
  'handles that are not open answer EBADF, whatever the number': (t, h) => {
    const nodeid = file(h, 1, 'f', 'x')
    const fh = h.open(nodeid)
    h.release(nodeid, fh)
    for (const hostile of [
      fh,
      -1,
      77,
      0.5,
      Number.NaN,
      2 ** 32,
      2 ** 53,
      Number.POSITIVE_INFINITY,
    ]) {
      t.is(h.read(nodeid, hostile, 0, 1), EBADF)
      t.is(h.write(nodeid, hostile, 0, 'x'), EBADF)
      t.is(h.release(nodeid, hostile), EBADF)
      t.is(h.settle(h.fs.fsync(h.request, nodeid, hostile, false)), EBADF)
      t.is(h.settle(h.fs.fallocate(h.request, nodeid, hostile, 0, 1, 0)), EBADF)
      t.is(h.readdirOnce(nodeid, hostile, 0n, 10), EBADF)
    }
  },
  'a directory handle is no file handle, and the other way round': (t, h) => {
    const nodeid = file(h, 1, 'f', 'x')
    const fh = h.open(nodeid)
    const dir = h.opendir(1)
    t.is(h.read(1, dir, 0, 1), EBADF)
    t.is(h.readdirOnce(nodeid, fh, 0n, 10), EBADF)
    t.is(h.release(1, dir), EBADF)
    t.is(h.fs.releasedir(h.request, nodeid, fh), EBADF)
    h.release(nodeid, fh)
    h.fs.releasedir(h.request, 1, dir)
  },
  'OPEN of a directory answers EISDIR, OPENDIR of a file ENOTDIR': (t, h) => {
    t.is(h.open(h.mkdir(1, 'd')), EISDIR)
    t.is(h.opendir(file(h, 1, 'f')), ENOTDIR)
  },
  'OPEN of a FIFO, a socket, a device or a link is refused': (t, h) => {
    for (const [name, mode] of [
      ['fifo', 0o010644],
      ['socket', 0o140644],
    ] as const)
      t.is(h.open(h.mknod(1, name, mode)), ENXIO)
    t.is(h.open(h.symlink(1, 'link', 'fifo')), ENXIO)
  },
  'truncation by SETATTR, up and down, by node and by handle': (t, h) => {
    const nodeid = file(h, 1, 'f', '0123456789')
    t.is(h.setattr(nodeid, { setSize: true, sizeBytes: 4 }), 0)
    t.is(h.attr.sizeBytes, 4)
    const fh = h.open(nodeid)
    t.is(h.setattr(nodeid, { setSize: true, sizeBytes: 6 }, fh), 0)
    t.is(h.readText(nodeid, fh), '0123\0\0')
    h.release(nodeid, fh)
    t.is(h.setattr(h.mkdir(1, 'd'), { setSize: true, sizeBytes: 0 }), EISDIR)
  },
  'mode and times are set, also before 1970 and to the nanosecond': (t, h) => {
    const nodeid = file(h, 1, 'f')
    t.is(h.setattr(nodeid, { setMode: true, mode: 0o4751 }), 0)
    t.is(h.attr.mode, 0o104751)
    h.setattr(nodeid, {
      setAtime: true,
      atimeSec: -1000,
      atimeNsec: 5,
      setMtime: true,
      mtimeSec: 2 ** 31 + 7,
      mtimeNsec: 999_999_999,
    })
    t.deepEqual(
      [h.attr.atimeSec, h.attr.atimeNsec, h.attr.mtimeSec, h.attr.mtimeNsec],
      [-1000, 5, 2 ** 31 + 7, 999_999_999],
    )
    h.setattr(nodeid, { setMtime: true, mtimeNow: true })
    t.true(Math.abs(h.attr.mtimeSec - Date.now() / 1000) < 60)
    t.is(h.attr.atimeSec, -1000)
  },
  'a write that asks for it clears set-id bits, another does not': (t, h) => {
    const nodeid = file(h, 1, 'f', 'x')
    h.setattr(nodeid, { setMode: true, mode: 0o6755 })
    const fh = h.open(nodeid)
    h.write(nodeid, fh, 0, 'y', true)
    t.is(h.stat(nodeid).mode & 0o7777, 0o755)
    h.setattr(nodeid, { setMode: true, mode: 0o2745 })
    h.write(nodeid, fh, 0, 'y', true)
    t.is(
      h.stat(nodeid).mode & 0o7777,
      0o2745,
      'without group execution the bit means something else',
    )
    h.setattr(nodeid, { setMode: true, mode: 0o4755 })
    h.setattr(nodeid, { setSize: true, sizeBytes: 0, killSuidgid: true })
    t.is(h.attr.mode & 0o7777, 0o755)
    h.release(nodeid, fh)
  },
  'mkdir and rmdir keep link counts': (t, h) => {
    const before = h.stat(1).nlink
    const dir = h.mkdir(1, 'd')
    const inner = h.mkdir(dir, 'i')
    t.true([before, before + 1].includes(h.stat(1).nlink))
    t.is(h.rmdir(1, 'd'), ENOTEMPTY)
    t.is(h.rmdir(dir, 'i'), 0)
    t.is(h.rmdir(1, 'd'), 0)
    t.is(h.rmdir(1, 'd'), ENOENT)
    t.is(h.stat(1).nlink, before)
    h.forget(inner)
  },
  'unlink and rmdir refuse each other’s things': (t, h) => {
    h.mkdir(1, 'd')
    file(h, 1, 'f')
    t.is(h.unlink(1, 'd'), EISDIR)
    t.is(h.rmdir(1, 'f'), ENOTDIR)
    t.is(h.unlink(1, 'nothing'), ENOENT)
  },
  'making a name that is there answers EEXIST': (t, h) => {
    const nodeid = file(h, 1, 'f')
    t.is(h.mkdir(1, 'f'), EEXIST)
    t.is(h.mknod(1, 'f', 0o100644), EEXIST)
    t.is(h.symlink(1, 'f', 'x'), EEXIST)
    t.is(h.link(nodeid, 1, 'f'), EEXIST)
  },
  'hard links share the file': (t, h) => {
    const nodeid = file(h, 1, 'a', 'shared')
    t.is(h.link(nodeid, 1, 'b'), nodeid)
    t.is(h.stat(nodeid).nlink, 2)
    t.is(h.unlink(1, 'a'), 0)
    t.is(h.stat(nodeid).nlink, 1)
    t.is(contents(h, nodeid), 'shared')
    t.is(h.lookup(1, 'b'), nodeid)
  },
  'symbolic links keep their target, up to 4095 bytes': (t, h) => {
    t.is(h.readlink(h.symlink(1, 's', '../some/where')), '../some/where')
    const long = 't'.repeat(4095)
    t.is(h.readlink(h.symlink(1, 'long', long)), long)
    t.is(h.readlink(file(h, 1, 'f')), EINVAL)
  },
  'special files keep type and numbers': (t, h) => {
    t.is(h.stat(h.mknod(1, 'fifo', 0o010640)).mode, 0o010640)
    t.is(h.stat(h.mknod(1, 'plain', 0o640)).mode, 0o100640)
  },
  'an unlinked file that is open goes on': (t, h) => {
    const { nodeid, fh } = h.create(1, 'f')
    h.write(nodeid, fh, 0, 'before')
    t.is(h.unlink(1, 'f'), 0)
    t.is(h.stat(nodeid).nlink, 0)
    h.write(nodeid, fh, 6, ' after')
    t.is(h.readText(nodeid, fh), 'before after')
    t.is(h.lookup(1, 'f'), ENOENT)
    h.release(nodeid, fh)
  },
  'a removed file that the guest still knows can be looked at, not found': (t, h) => {
    const nodeid = file(h, 1, 'f', 'x')
    const dir = h.mkdir(1, 'd')
    h.unlink(1, 'f')
    h.rmdir(1, 'd')
    t.is(h.stat(nodeid).nlink, 0)
    t.is(h.stat(dir).nlink, 0)
    t.is(h.mkdir(dir, 'x'), ENOENT)
  },
  'a name reused after removal is another node': (t, h) => {
    const old = file(h, 1, 'f', 'old')
    h.unlink(1, 'f')
    const now = file(h, 1, 'f', 'new')
    t.not(now, old)
    t.is(contents(h, now), 'new')
  },
  'rename moves within and between directories': (t, h) => {
    const nodeid = file(h, 1, 'a', 'x')
    const dir = h.mkdir(1, 'd')
    t.is(h.rename(1, 'a', 1, 'b'), 0)
    t.is(h.rename(1, 'b', dir, 'c'), 0)
    t.is(h.lookup(dir, 'c'), nodeid)
    t.is(h.lookup(1, 'a'), ENOENT)
    t.is(h.lookup(1, 'b'), ENOENT)
    t.is(contents(h, nodeid), 'x')
    t.is(h.rename(1, 'nothing', 1, 'x'), ENOENT)
  },
  'rename replaces what may be replaced': (t, h) => {
    const a = file(h, 1, 'a', 'a')
    const b = file(h, 1, 'b', 'b')
    t.is(h.rename(1, 'a', 1, 'b'), 0)
    t.is(h.lookup(1, 'b'), a)
    t.is(h.stat(b).nlink, 0)
    const d = h.mkdir(1, 'd')
    h.mkdir(1, 'empty')
    const full = h.mkdir(1, 'full')
    file(h, full, 'x')
    t.is(h.rename(1, 'd', 1, 'empty'), 0)
    t.is(h.lookup(1, 'empty'), d)
    t.is(h.rename(1, 'empty', 1, 'full'), ENOTEMPTY)
    t.is(h.rename(1, 'b', 1, 'full'), EISDIR)
    t.is(h.rename(1, 'full', 1, 'b'), ENOTDIR)
    t.is(h.rename(1, 'b', 1, 'b'), 0)
  },
  'rename of a directory into itself answers EINVAL': (t, h) => {
    const dir = h.mkdir(1, 'd')
    const inner = h.mkdir(dir, 'i')
    t.is(h.rename(1, 'd', inner, 'x'), EINVAL)
    t.is(h.rename(1, 'd', dir, 'x'), EINVAL)
  },
  'rename between two names of one file leaves both': (t, h) => {
    const nodeid = file(h, 1, 'a')
    h.link(nodeid, 1, 'b')
    t.is(h.rename(1, 'a', 1, 'b'), 0)
    t.is(h.stat(nodeid).nlink, 2)
  },
  'RENAME_NOREPLACE and RENAME_EXCHANGE': (t, h) => {
    const a = file(h, 1, 'a', 'a')
    const b = file(h, 1, 'b', 'b')
    const d = h.mkdir(1, 'd')
    t.is(h.rename(1, 'a', 1, 'b', NOREPLACE), EEXIST)
    t.is(h.rename(1, 'a', 1, 'new', NOREPLACE), 0)
    t.is(h.rename(1, 'new', 1, 'b', EXCHANGE), 0)
    t.is(h.lookup(1, 'b'), a)
    t.is(h.lookup(1, 'new'), b)
    t.is(h.rename(1, 'b', 1, 'd', EXCHANGE), 0)
    t.is(h.lookup(1, 'd'), a)
    t.is(h.lookup(1, 'b'), d)
    t.is(h.rename(1, 'b', 1, 'nothing', EXCHANGE), ENOENT)
    t.is(h.rename(1, 'b', 1, 'd', EXCHANGE | NOREPLACE), EINVAL)
  },
  'files below a renamed directory are reached by their old nodes': (t, h) => {
    const dir = h.mkdir(1, 'd')
    const inner = h.mkdir(dir, 'i')
    const nodeid = file(h, inner, 'f', 'deep')
    h.rename(1, 'd', 1, 'e')
    t.is(contents(h, nodeid), 'deep')
    t.is(h.lookup(inner, 'f'), nodeid)
  },
  'names are bytes: any but NUL and slash, up to 255': (t, h) => {
    const names = ['\xff\xfe', ' ', '\n', '"', '\\', 'é', 'n'.repeat(255), '...', '.x']
    for (const name of names) file(h, 1, name)
    t.deepEqual(h.list(1), [...names].sort())
    for (const name of names) t.is(h.unlink(1, name), 0)
  },
  'reading a directory in steps of any size shows every name once': (t, h) => {
    const dir = h.mkdir(1, 'd')
    const names = Array.from({ length: 100 }, (_, i) => `f${i}`)
    for (const name of names) file(h, dir, name, '')
    for (const step of [1, 2, 3, 7, 50, 99, 100, 101, 102, 103])
      t.deepEqual(h.list(dir, step), [...names].sort(), `step ${step}`)
  },
  'removing names while reading skips none of the others': (t, h) => {
    const dir = h.mkdir(1, 'd')
    for (let i = 0; i < 60; i++) file(h, dir, `f${i}`, '')
    const fh = h.opendir(dir)
    const seen = new Set<string>()
    let cookie = 0n
    for (;;) {
      const found = h.readdirOnce(dir, fh, cookie, 5)
      if (typeof found === 'number' || found.length === 0) break
      for (const { name } of found) {
        if (name.startsWith('.')) continue
        t.false(seen.has(name))
        seen.add(name)
        h.unlink(dir, name)
      }
      cookie = found.at(-1)!.cookie
    }
    t.is(seen.size, 60)
    h.fs.releasedir(h.request, dir, fh)
  },
  'a directory shows . and .. and the types of its names': (t, h) => {
    const dir = h.mkdir(1, 'd')
    h.mkdir(dir, 'dir')
    file(h, dir, 'file')
    h.symlink(dir, 'link', 'x')
    const fh = h.opendir(dir)
    const found = h.readdirOnce(dir, fh, 0n, 100) as { name: string; type: number }[]
    const types = new Map(found.map(({ name, type }) => [name, type]))
    t.deepEqual([...types.keys()].sort(), ['.', '..', 'dir', 'file', 'link'])
    t.deepEqual(
      [types.get('.'), types.get('..'), types.get('dir'), types.get('file'), types.get('link')],
      [4, 4, 4, 8, 10],
    )
    h.fs.releasedir(h.request, dir, fh)
  },
  'READDIRPLUS takes one lookup a name, none for . and ..': (t, h) => {
    if (!h.fs.capabilities.readdirplus) return
    const dir = h.mkdir(1, 'd')
    for (let i = 0; i < 5; i++) h.forget(file(h, dir, `f${i}`))
    const fh = h.opendir(dir)
    const before = h.fs.nodeCount
    const found = h.readdirOnce(dir, fh, 0n, 4, true) as { name: string; nodeid: number }[]
    const named = found.filter(({ nodeid }) => nodeid !== 0)
    t.is(h.fs.nodeCount - before, named.length)
    t.is(named.length, found.filter(({ name }) => name !== '.' && name !== '..').length)
    for (const { nodeid } of named) h.forget(nodeid)
    t.is(h.fs.nodeCount, before)
    h.fs.releasedir(h.request, dir, fh)
  },
  'extended attributes: set, get, list, remove, and their errors': (t, h) => {
    if (!h.fs.capabilities.xattr) return
    const nodeid = file(h, 1, 'f')
    t.is(h.getxattr(nodeid, 'user.a'), ENODATA)
    t.is(h.setxattr(nodeid, 'user.a', 'value', 2), ENODATA)
    t.is(h.setxattr(nodeid, 'user.a', 'value', 1), 0)
    t.is(h.setxattr(nodeid, 'user.a', 'again', 1), EEXIST)
    t.is(h.setxattr(nodeid, 'user.a', 'other', 2), 0)
    t.is(h.setxattr(nodeid, 'user.empty', ''), 0)
    t.is(h.getxattr(nodeid, 'user.a'), 'other')
    t.is(h.getxattr(nodeid, 'user.a', 0), 5)
    t.is(h.getxattr(nodeid, 'user.a', 4), ERANGE)
    t.is(h.getxattr(nodeid, 'user.empty'), '')
    t.deepEqual(
      (h.listxattr(nodeid) as string[]).filter(name => name.startsWith('user.')),
      ['user.a', 'user.empty'],
    )
    t.is(h.listxattr(nodeid, 3), ERANGE)
    t.is(h.removexattr(nodeid, 'user.a'), 0)
    t.is(h.removexattr(nodeid, 'user.a'), ENODATA)
  },
  'LSEEK finds data and holes': (t, h) => {
    const { nodeid, fh } = h.create(1, 'f')
    h.setattr(nodeid, { setSize: true, sizeBytes: 1 << 20 }, fh)
    h.write(nodeid, fh, 1 << 19, 'data')
    const hole = h.fs.lseek(h.request, nodeid, fh, 0, 4)
    const data = h.fs.lseek(h.request, nodeid, fh, 0, 3)
    t.true(hole === 0 || hole === 1 << 20)
    t.true(data === 1 << 19 || data === 0)
    t.is(h.fs.lseek(h.request, nodeid, fh, 1 << 21, 3), ENXIO)
    t.is(h.fs.lseek(h.request, nodeid, fh, 0, 0), EINVAL)
    h.release(nodeid, fh)
  },
  'FALLOCATE grows, keeps the size when asked, and punches holes': (t, h) => {
    const { nodeid, fh } = h.create(1, 'f')
    const allocate = (mode: number, offset: number, length: number): number =>
      h.settle(h.fs.fallocate(h.request, nodeid, fh, offset, length, mode))
    t.is(allocate(0, 0, 8192), 0)
    t.is(h.stat(nodeid).sizeBytes, 8192)
    t.is(allocate(1, 8192, 8192), 0)
    t.is(h.stat(nodeid).sizeBytes, 8192)
    h.write(nodeid, fh, 0, new Uint8Array(8192).fill(1))
    t.is(allocate(3, 0, 4096), 0)
    t.deepEqual(h.read(nodeid, fh, 0, 4096), new Uint8Array(4096))
    t.deepEqual(h.read(nodeid, fh, 4096, 4096), new Uint8Array(4096).fill(1))
    t.true(allocate(0x7000, 0, 1) < 0)
    h.release(nodeid, fh)
  },
  'COPY_FILE_RANGE copies between files and stops at the end': (t, h) => {
    const from = file(h, 1, 'from', '0123456789')
    const to = file(h, 1, 'to', 'xxxxxxxxxx')
    const source = h.open(from, 0)
    const target = h.open(to)
    const copy = (offsetIn: number, offsetOut: number, length: number): number =>
      h.settle(h.fs.copyFileRange(h.request, from, source, offsetIn, to, target, offsetOut, length))
    t.is(copy(2, 4, 3), 3)
    t.is(contents(h, to), 'xxxx234xxx')
    t.is(copy(8, 8, 100), 2)
    t.is(copy(20, 0, 10), 0)
    t.is(contents(h, to), 'xxxx234x89')
    h.release(from, source)
    h.release(to, target)
  },
  'TMPFILE makes a file without a name that can be given one': (t, h) => {
    h.opened.reset()
    const outcome = h.fs.tmpfile(h.request, 1, 2, 0o600, h.entry, h.opened)
    if (outcome === -95) return
    t.is(outcome, 0)
    const { nodeid } = h.entry
    const { fh } = h.opened
    t.is(h.stat(nodeid).nlink, 0)
    h.write(nodeid, fh, 0, 'hidden')
    t.deepEqual(h.list(1), [])
    t.is(h.link(nodeid, 1, 'named'), nodeid)
    h.release(nodeid, fh)
    t.is(contents(h, nodeid), 'hidden')
    t.is(h.lookup(1, 'named'), nodeid)
  },
  'fsync, fsyncdir, syncfs and flush answer': (t, h) => {
    const { nodeid, fh } = h.create(1, 'f')
    h.write(nodeid, fh, 0, 'x')
    t.is(h.settle(h.fs.fsync(h.request, nodeid, fh, false)), 0)
    t.is(h.settle(h.fs.fsync(h.request, nodeid, fh, true)), 0)
    t.is(h.settle(h.fs.flush(h.request, nodeid, fh, 0, 0)), 0)
    t.is(h.settle(h.fs.syncfs(h.request, 1)), 0)
    const dir = h.opendir(1)
    t.is(h.settle(h.fs.fsyncdir(h.request, 1, dir, false)), 0)
    h.fs.releasedir(h.request, 1, dir)
    h.release(nodeid, fh)
  },
  'statfs has sane numbers': (t, h) => {
    const { blocks, bfree, bavail, bsize, frsize, namelen } = h.statfs()
    t.true(blocks > 0 && bfree <= blocks && bavail <= bfree)
    t.true(bsize >= 512 && frsize >= 512 && namelen === 255)
  },
  'inode numbers are stable and differ': (t, h) => {
    const a = file(h, 1, 'a')
    const b = file(h, 1, 'b')
    const ino = h.stat(a).inoLow
    t.not(ino, h.stat(b).inoLow)
    h.forget(a)
    t.is(h.stat(h.lookup(1, 'a')).inoLow, ino)
  },
  'destroy lets go of everything; after it the file system works again': (t, h) => {
    const { nodeid } = h.create(1, 'f')
    h.opendir(1)
    file(h, h.mkdir(1, 'd'), 'inner')
    h.fs.destroy()
    t.is(h.fs.nodeCount, 1)
    t.is(h.fs.handleCount, 0)
    t.is(h.getattr(nodeid), ESTALE)
    h.start(h.fs)
    t.deepEqual(h.list(1), ['d', 'f'])
    h.fs.destroy()
    h.fs.destroy()
  },
}
