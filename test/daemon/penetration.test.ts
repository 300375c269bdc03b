/**
 * The penetration table: a guest without a kernel of its own in between asks for what lies beside the share,
 * in each mode of isolation. What could race with the host is in penetration-races.test.ts.
 */
import { spawnSync } from 'node:child_process'
import {
  closeSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { text } from '../helpers/fuse-client.js'
import {
  besiege,
  EBADF,
  EINVAL,
  ENOENT,
  ENOTDIR,
  ENXIO,
  ESTALE,
  held,
  Op,
  openPaths,
  VARIANTS,
} from './penetration-helpers.js'
import { guest, missing } from './sandbox-helpers.js'

const raw = (name: string): Uint8Array => new TextEncoder().encode(name)

for (const variant of VARIANTS) {
  const testHere = missing(variant.mode) === undefined ? test : test.skip

  testHere(`${variant.name}: names that are more than a name`, async t => {
    const siege = await besiege(t, variant)
    const { attacker, client, outside } = siege
    const dir = client.lookup(1, 'dir')
    const file = client.lookup(1, 'file')
    const names = [
      '.',
      '..',
      '../outside',
      '../outside/canary',
      '../../outside/new',
      'sub/..',
      'sub/deep',
      'sub/',
      '/',
      '/etc/passwd',
      `${outside.folder}/canary`,
      `${outside.folder}/new`,
      'way-0/canary',
      '../way-1/canary',
    ].map(text)
    // With a NUL inside: what comes after it is no part of the name.
    const cut = [raw('..\0canary\0'), raw('../outside/canary\0x\0')]
    for (const name of [...names, ...cut])
      for (const parent of [1, dir]) {
        const bodies: [opcode: number, ...parts: Uint8Array[]][] = [
          [Op.LOOKUP, name],
          [Op.UNLINK, name],
          [Op.RMDIR, name],
          [Op.MKDIR, u32s(0o777, 0), name],
          [Op.MKNOD, u32s(0o100666, 0, 0, 0), name],
          [Op.CREATE, u32s(0o1102, 0o100666, 0, 0), name],
          [Op.SYMLINK, name, text('/')],
          [Op.LINK, u64(BigInt(file)), name],
          [Op.RENAME, u64(1n), name, text('got')],
          [Op.RENAME, u64(1n), text('victim'), name],
          [Op.RENAME2, u64(BigInt(dir)), u32s(1, 0), name, text('got')],
          [Op.RENAME2, u64(BigInt(dir)), u32s(2, 0), text('victim'), name],
        ]
        for (const [opcode, ...parts] of bodies)
          t.is(
            attacker.ask(opcode, parent, concat(...parts)).error,
            EINVAL,
            `${opcode} ${new TextDecoder().decode(name)}`,
          )
      }
    t.is(attacker.succeeded, 0)
    held(t, siege)
  })

  testHere(`${variant.name}: symbolic links stand for themselves alone`, async t => {
    const siege = await besiege(t, variant)
    const { attacker, client, place, outside, ways } = siege
    const targets = [
      ...ways,
      `${outside.folder}/canary`,
      '../outside/canary',
      '/proc/self/cwd',
      '/proc/self/fd/0',
      '/',
      '..',
    ]
    for (const [i, target] of targets.entries()) {
      const name = `link-${i}`
      const link = attacker.entry(Op.SYMLINK, 1, concat(text(name), text(target)))
      t.true(link > 0)
      attacker.useNode(link)
      attacker.useDirectory(link)
      t.is(attacker.ask(Op.READLINK, link).bytes.length, target.length, 'its text')
      t.true(attacker.ask(Op.OPEN, link, u32s(0, 0)).error < 0)
      t.is(attacker.ask(Op.OPENDIR, link, u32s(0, 0)).error, ENOTDIR)
      // CREATE without O_EXCL, O_TRUNC with it.
      t.true(attacker.create(1, name, 0o102) < 0)
      t.true(attacker.create(1, name, 0o1102) < 0)
      // A hard link of the link, not of what it names.
      attacker.entry(Op.LINK, 1, concat(u64(BigInt(link)), text(`hard-${i}`)))
      t.true(lstatSync(join(place.share, `hard-${i}`)).isSymbolicLink())
      t.is(attacker.lookup(link, 'canary'), ENOTDIR)
      t.true(client.lookup(1, name) > 0)
    }
    held(t, siege)
  })

  testHere(`${variant.name}: devices, pipes and sockets are not opened`, async t => {
    const siege = await besiege(t, variant, place => {
      for (const [name, ...how] of [
        ['host-fifo', 'p'],
        ['host-null', 'c', '1', '3'],
        ['host-zero', 'c', '1', '5'],
      ] as const)
        spawnSync('mknod', [join(place.share, name), ...how])
    })
    const { attacker, place, daemon } = siege
    const made: [name: string, mode: number, device: number][] = [
      ['fifo', 0o010666, 0],
      ['null', 0o020666, (1 << 8) | 3],
      ['zero', 0o020666, (1 << 8) | 5],
      ['disk', 0o060666, (254 << 8) | 0],
      ['socket', 0o140666, 0],
    ]
    for (const [name, mode, device] of made)
      t.true(attacker.entry(Op.MKNOD, 1, concat(u32s(mode, device, 0, 0), text(name))) > 0, name)
    for (const name of [...made.map(([known]) => known), 'host-fifo', 'host-null', 'host-zero']) {
      const nodeid = attacker.lookup(1, name)
      const before = attacker.succeeded
      // Read, write, both; waiting, appending, truncating, as a path, as a directory.
      for (const flags of [0, 1, 2, 0o4000, 0o2001, 0o1001, 0o10000000, 0o200000, 0o20200002])
        t.is(attacker.ask(Op.OPEN, nodeid, u32s(flags, 0)).error, ENXIO, `${name} ${flags}`)
      for (const flags of [0o100, 0o102, 0o1102])
        t.is(attacker.create(1, name, flags), ENXIO, `${name} ${flags}`)
      t.is(attacker.ask(Op.OPENDIR, nodeid, u32s(0, 0)).error, ENOTDIR)
      t.is(attacker.succeeded, before)
      attacker.useNode(nodeid)
    }
    // Nobody has the pipes open for reading.
    for (const name of ['fifo', 'host-fifo'])
      t.throws(() => closeSync(openSync(join(place.share, name), 0o4001)), { code: 'ENXIO' })
    for (const path of openPaths(daemon.pid)) t.notRegex(path, /\/dev\/(zero|vd|sd|nvme)/)
    held(t, siege)
  })

  for (const handles of ['prefer', 'mandatory'])
    testHere(
      `${variant.name}: a pipe mounted by itself is not opened, with handles ${handles}`,
      async t => {
        const argv = ['--xattr', `--inode-file-handles=${handles}`]
        const siege = await besiege(t, { ...variant, argv }, ({ folder, share }) => {
          const pipe = join(folder, 'pipe')
          const mounted = join(share, 'mounted')
          spawnSync('mkfifo', [pipe])
          writeFileSync(mounted, '')
          const { status, stderr } = spawnSync('mount', ['--bind', pipe, mounted], {
            encoding: 'utf8',
          })
          if (status !== 0) throw new Error(stderr)
          t.teardown(() => {
            spawnSync('umount', ['--lazy', mounted])
          })
        })
        const { attacker, place } = siege
        const nodeid = attacker.lookup(1, 'mounted')
        if (nodeid > 0) attacker.useNode(nodeid)
        attacker.useDirectory(1)
        t.throws(() => closeSync(openSync(join(place.folder, 'pipe'), 0o4001)), { code: 'ENXIO' })
        held(t, siege)
      },
    )

  testHere(`${variant.name}: a proc mount in the share leads nowhere`, async t => {
    const siege = await besiege(t, variant, place => {
      const proc = join(place.share, 'proc')
      mkdirSync(proc)
      const { status, stderr } = spawnSync('mount', ['-t', 'proc', 'proc', proc], {
        encoding: 'utf8',
      })
      if (status !== 0) throw new Error(stderr)
      t.teardown(() => {
        spawnSync('umount', ['--lazy', proc])
      })
    })
    const { attacker, daemon, client, outside } = siege
    const proc = client.lookup(1, 'proc')
    const pid = attacker.lookup(proc, `${daemon.pid}`)
    t.true(pid > 0)
    const task = attacker.lookup(attacker.lookup(pid, 'task'), `${daemon.pid}`)
    const ns = attacker.lookup(pid, 'ns')
    const magic: [parent: number, name: string][] = [
      [proc, 'self'],
      [proc, 'thread-self'],
      [ns, 'mnt'],
      [ns, 'user'],
    ]
    for (const folder of [pid, task])
      for (const name of ['root', 'cwd', 'exe']) magic.push([folder, name])
    const fds = attacker.lookup(pid, 'fd')
    for (let i = 0; i < 40; i++) magic.push([fds, `${i}`])
    let seen = 0
    for (const [parent, name] of magic) {
      const link = attacker.lookup(parent, name)
      if (link < 0) continue
      seen++
      t.true(attacker.ask(Op.OPEN, link, u32s(2, 0)).error < 0, name)
      t.is(attacker.ask(Op.OPENDIR, link, u32s(0, 0)).error, ENOTDIR, name)
      t.is(attacker.lookup(link, 'etc'), ENOTDIR)
      t.is(attacker.lookup(link, outside.folder.split('/')[1]!), ENOTDIR)
      attacker.create(link, 'new', 0o102)
      attacker.ask(Op.ACCESS, link, u32s(4, 0))
      // A hard link to it would cross file systems, also where the kernel follows it.
      t.true(attacker.entry(Op.LINK, 1, concat(u64(BigInt(link)), text('stolen'))) < 0)
    }
    t.true(seen > 15, `${seen} links`)
    held(t, siege)
  })

  testHere(`${variant.name}: something else in the place of the share`, async t => {
    const siege = await besiege(t, { ...variant, argv: [...variant.argv, '--reconnect'] })
    const { attacker, client, place } = siege
    const dir = client.lookup(1, 'dir')
    renameSync(place.share, `${place.share}.old`)
    symlinkSync(siege.outside.folder, place.share)
    t.true(attacker.lookup(1, 'way-0') > 0)
    attacker.useDirectory(1)
    attacker.useDirectory(dir)
    attacker.lookup(dir, 'canary')
    t.is(attacker.lookup(1, 'sub'), ENOENT)
    client.front.close()
    // The next guest gets the directory that was shared, too.
    const next = await guest(t, place)
    t.true(next.lookup(1, 'way-1') > 0)
    t.is(next.lookup(1, 'sub'), ENOENT)
    held(t, { ...siege, client: next })
  })

  testHere(
    `${variant.name}: directories that are gone, handles of others, ids never given`,
    async t => {
      const siege = await besiege(t, variant)
      const { attacker, client, place } = siege
      const file = client.lookup(1, 'file')
      const gone = attacker.entry(Op.MKDIR, 1, concat(u32s(0o777, 0), text('gone')))
      client.do(Op.RMDIR, 1, text('gone'))
      const before = readdirSync(place.share).sort()
      for (const target of [
        gone,
        77,
        4096,
        2n ** 32n - 1n,
        2n ** 32n + 1n,
        2n ** 53n,
        2n ** 63n,
        2n ** 64n - 1n,
        0,
      ]) {
        const known = target === gone
        const answers: [why: string, error: number][] = [
          ['LOOKUP', attacker.ask(Op.LOOKUP, target, text('file')).error],
          [
            'CREATE',
            attacker.ask(Op.CREATE, target, concat(u32s(0o102, 0o100666, 0, 0), text('x'))).error,
          ],
          ['MKDIR', attacker.ask(Op.MKDIR, target, concat(u32s(0o777, 0), text('x'))).error],
          ['LINK to', attacker.ask(Op.LINK, target, concat(u64(BigInt(file)), text('x'))).error],
          [
            'RENAME to',
            attacker.ask(Op.RENAME, 1, concat(u64(BigInt(target)), text('file'), text('x'))).error,
          ],
          [
            'RENAME from',
            attacker.ask(Op.RENAME, target, concat(u64(1n), text('file'), text('x'))).error,
          ],
          ['UNLINK', attacker.ask(Op.UNLINK, target, text('file')).error],
        ]
        for (const [why, error] of answers)
          t.is(error, known ? ENOENT : ESTALE, `${why}, node ${target}`)
        if (known) continue
        t.is(attacker.ask(Op.LINK, 1, concat(u64(BigInt(target)), text('x'))).error, ESTALE)
        t.is(attacker.ask(Op.OPEN, target, u32s(2, 0)).error, ESTALE)
        t.is(attacker.ask(Op.SETATTR, target, new Uint8Array(88)).error, ESTALE)
      }
      t.deepEqual(readdirSync(place.share).sort(), before)
      // A directory's handle is no file's, and a file's no directory's; a closed one is neither.
      const fh = client.open(file)
      const dirFh = client.opendir(1)
      const read = (handle: bigint): Uint8Array =>
        concat(u64(handle), u64(0n), u32s(100, 0), u64(0n), u32s(0, 0))
      t.is(attacker.ask(Op.READ, 1, read(dirFh)).error, EBADF)
      t.is(attacker.ask(Op.READDIR, file, read(fh)).error, EBADF)
      client.release(file, fh)
      client.release(1, dirFh, true)
      t.is(attacker.ask(Op.READ, file, read(fh)).error, EBADF)
      t.is(attacker.ask(Op.READDIR, 1, read(dirFh)).error, EBADF)
      t.is(readFileSync(join(place.share, 'file'), 'utf8'), place.content)
      writeFileSync(join(place.share, 'file'), place.content)
      held(t, siege)
    },
  )
}
