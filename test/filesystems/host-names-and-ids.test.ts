/** `--xattrmap`, `--translate-uid` and `--translate-gid` in the host back end. */
import { execFileSync } from 'node:child_process'
import { chownSync, lstatSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { HostFileSystem } from '../../src/filesystems/host/host-filesystem.js'
import { IdTranslationError } from '../../src/filesystems/host/id-translation.js'
import { DEFAULT_HOST_OPTIONS, type HostOptions } from '../../src/filesystems/host/options.js'
import { XattrMapError } from '../../src/filesystems/host/xattrmap.js'
import { REQUEST_AT, SCRATCH_AT } from '../../src/fuse/layout.js'
import type { Negotiated } from '../../src/vfs/filesystem.js'
import { Harness } from './harness.js'

const EPERM = -1
const ERANGE = -34
const ENODATA = -61
const ENOTSUP = -95
const ACL = 'system.posix_acl_access'
const O_TRUNC = 0o1000

interface Share {
  readonly h: Harness
  readonly folder: string
  host(name: string): string
}

function share(
  t: ExecutionContext,
  options: Partial<HostOptions>,
  negotiated: Partial<Negotiated> = {},
): Share {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-names-ids-'))
  const h = new Harness()
  const fs = new HostFileSystem(h.context, SCRATCH_AT, {
    ...DEFAULT_HOST_OPTIONS,
    sharedDir: folder,
    ...options,
  })
  if (fs.start() < 0) throw new Error(`cannot open ${folder}`)
  h.start(fs, negotiated)
  t.teardown(() => {
    h.close()
    rmSync(folder, { recursive: true, force: true })
  })
  return { h, folder, host: name => join(folder, name) }
}

/** A file of the guest, closed. */
function file(h: Harness, name: string): number {
  const { nodeid, fh } = h.create(1, name)
  if (fh >= 0) h.release(nodeid, fh)
  return nodeid
}

/** Attribute of a host file, by another share without a map. */
function hostAttributes(t: ExecutionContext, folder: string, name: string): string[] {
  const { h } = share(t, { sharedDir: folder, xattr: true })
  return h.listxattr(h.lookup(1, name)) as string[]
}

test('every attribute of the guest is kept under a prefix', t => {
  const { h, folder } = share(t, { xattrmap: ':map::user.virtiofs.:' })
  t.true(h.fs.capabilities.xattr, 'a map implies xattr')
  const nodeid = file(h, 'f')
  t.is(h.setxattr(nodeid, 'security.selinux', 'label'), 0)
  t.is(h.setxattr(nodeid, 'user.a', 'value'), 0)
  t.deepEqual(hostAttributes(t, folder, 'f'), [
    'user.virtiofs.security.selinux',
    'user.virtiofs.user.a',
  ])
  t.is(h.getxattr(nodeid, 'security.selinux'), 'label')
  t.is(h.getxattr(nodeid, 'user.a', 0), 5)
  t.deepEqual(h.listxattr(nodeid), ['security.selinux', 'user.a'])
  t.is(h.removexattr(nodeid, 'user.a'), 0)
  t.is(h.removexattr(nodeid, 'user.a'), ENODATA)
  t.deepEqual(hostAttributes(t, folder, 'f'), ['user.virtiofs.security.selinux'])
})

test('a listing has the size of what is shown', t => {
  const { h, folder } = share(t, { xattrmap: ':map::user.virtiofs.:' })
  const nodeid = file(h, 'f')
  const plain = share(t, { sharedDir: folder, xattr: true })
  t.is(h.listxattr(nodeid, 0), 0)
  plain.h.setxattr(plain.h.lookup(1, 'f'), 'user.of-the-host-itself', 'x')
  t.is(h.listxattr(nodeid, 0), 0, 'what is hidden takes no room')
  h.setxattr(nodeid, 'user.a', 'x')
  t.is(h.listxattr(nodeid, 0), 7)
  t.is(h.listxattr(nodeid, 6), ERANGE)
  t.deepEqual(h.listxattr(nodeid, 7), ['user.a'])
})

test('names that are denied, unsupported or too long once mapped', t => {
  const { h, folder } = share(t, {
    xattrmap:
      ':unsupported:all:user.u:user.u: :bad:all:user.b:user.b: :prefix:client:user.p:user.virtiofs.: :ok:all:::',
  })
  const nodeid = file(h, 'f')
  t.is(h.setxattr(nodeid, 'user.bad', 'x'), EPERM)
  t.is(h.removexattr(nodeid, 'user.bad'), EPERM)
  t.is(h.getxattr(nodeid, 'user.bad'), ENODATA, 'a reader finds nothing there')
  t.is(h.setxattr(nodeid, 'user.unsupported', 'x'), ENOTSUP)
  t.is(h.getxattr(nodeid, 'user.unsupported'), ENOTSUP)
  t.is(h.removexattr(nodeid, 'user.unsupported'), ENOTSUP)
  t.is(h.setxattr(nodeid, `user.p${'p'.repeat(240)}`, 'x'), ERANGE)
  const plain = share(t, { sharedDir: folder, xattr: true })
  const same = plain.h.lookup(1, 'f')
  for (const name of ['user.bad', 'user.unsupported', 'user.a'])
    t.is(plain.h.setxattr(same, name, 'x'), 0)
  t.deepEqual(h.listxattr(nodeid), ['user.a'])
})

test('the security context of a new node has its mapped name', t => {
  const { h, folder } = share(t, {
    xattrmap: ':map:security.selinux:user.virtiofs.:',
    securityContext: true,
  })
  const { bytes } = h.context
  const at = REQUEST_AT + 49152
  bytes.set(Buffer.from('security.selinux\0label', 'latin1'), at)
  Object.assign(h.request.securityName, { at, bytes: 16 })
  Object.assign(h.request.securityValue, { at: at + 17, bytes: 5 })
  const nodeid = file(h, 'f')
  t.is(h.getxattr(nodeid, 'security.selinux'), 'label')
  t.deepEqual(hostAttributes(t, folder, 'f'), ['user.virtiofs.security.selinux'])
})

test('file capabilities under another name go when data or owner change', t => {
  const { h } = share(t, { xattrmap: ':map::user.virtiofs.:' })
  const nodeid = file(h, 'f')
  const set = (): void => {
    t.is(h.setxattr(nodeid, 'security.capability', 'caps'), 0)
    t.is(h.setxattr(nodeid, 'user.other', 'stays'), 0)
    t.is(h.getxattr(nodeid, 'security.capability'), 'caps')
  }
  const gone = (what: string): void => {
    t.is(h.getxattr(nodeid, 'security.capability'), ENODATA, what)
    t.is(h.getxattr(nodeid, 'user.other'), 'stays', what)
  }
  set()
  const fh = h.open(nodeid)
  t.is(h.getxattr(nodeid, 'security.capability'), 'caps', 'open without O_TRUNC')
  t.is(h.write(nodeid, fh, 0, 'data'), 4)
  gone('write')
  t.is(h.write(nodeid, fh, 0, 'data'), 4, 'and none are there to drop')
  set()
  t.is(h.setattr(nodeid, { setMode: true, mode: 0o600 }), 0)
  t.is(h.getxattr(nodeid, 'security.capability'), 'caps', 'chmod')
  t.is(h.setattr(nodeid, { setSize: true, sizeBytes: 1 }), 0)
  gone('truncate')
  set()
  const { uid, gid } = h.stat(nodeid)
  t.is(h.setattr(nodeid, { setUid: true, uid, setGid: true, gid }), 0)
  gone('chown')
  set()
  h.release(nodeid, h.open(nodeid, 2 | O_TRUNC))
  gone('open with O_TRUNC')
  for (const other of [h.symlink(1, 'soft', 'f'), h.mknod(1, 'fifo', 0o010644), h.mkdir(1, 'd')])
    t.is(h.setattr(other, { setUid: true, uid, setGid: true, gid }), 0, 'they have none')
  h.release(nodeid, fh)
})

test('ACLs are shown only when guest and daemon agreed on them', t => {
  const { h, folder, host } = share(t, { xattr: true })
  const nodeid = file(h, 'f')
  execFileSync('setfacl', ['-m', 'u:1234:rw', host('f')])
  h.setxattr(nodeid, 'user.a', 'x')
  t.is(h.getxattr(nodeid, ACL), ENOTSUP)
  t.is(h.setxattr(nodeid, ACL, 'x'), ENOTSUP)
  t.is(h.removexattr(nodeid, ACL), ENOTSUP)
  t.deepEqual(h.listxattr(nodeid), ['user.a'])
  t.is(h.getxattr(nodeid, 'system.posix_acl_acces.'), ENOTSUP, 'of the host: no such name')
  const agreed = share(t, { sharedDir: folder, xattr: true, posixAcl: true }, { posixAcl: true })
  const same = agreed.h.lookup(1, 'f')
  t.deepEqual(agreed.h.listxattr(same), [ACL, 'user.a'])
  t.true((agreed.h.getxattr(same, ACL) as string).length > 4)
})

test('wrong rules, and translation together with ACLs, are refused at the start', t => {
  const make = (options: Partial<HostOptions>) => () => {
    const h = new Harness()
    try {
      new HostFileSystem(h.context, SCRATCH_AT, {
        ...DEFAULT_HOST_OPTIONS,
        sharedDir: '/',
        ...options,
      })
    } finally {
      h.context.dispose()
    }
  }
  t.throws(make({ xattrmap: 'x' }), { instanceOf: XattrMapError })
  t.throws(make({ translateUid: ['x'] }), {
    instanceOf: IdTranslationError,
    message: /^--translate-uid/,
  })
  t.throws(make({ translateGid: ['x'] }), {
    instanceOf: IdTranslationError,
    message: /^--translate-gid/,
  })
  t.throws(make({ translateUid: ['map:0:1:1'], xattr: true, posixAcl: true }), {
    message: '--posix-acl and --translate-uid or --translate-gid exclude each other',
  })
})

// --- ids -------------------------------------------------------------------------------------------

const ownUid = process.geteuid?.() ?? 0
const ownGid = process.getegid?.() ?? 0
const asRoot = ownUid === 0 ? test : test.skip

test('without privilege: every user of the guest is the daemon, shown as one of them', t => {
  const { h, host } = share(t, {
    translateUid: [`squash-guest:0:${ownUid}:4294967295`, `host:${ownUid}:1000:1`],
    translateGid: [`squash-guest:0:${ownGid}:4294967295`, `host:${ownGid}:1001:1`],
  })
  Object.assign(h.request, { uid: 77, gid: 78 })
  const nodeid = file(h, 'f')
  t.is(h.entry.attr.uid, 1000)
  t.is(h.entry.attr.gid, 1001)
  t.is(lstatSync(host('f')).uid, ownUid)
  t.is(lstatSync(host('f')).gid, ownGid)
  t.is(h.setattr(nodeid, { setUid: true, uid: 12345, setGid: true, gid: 0 }), 0)
  t.is(h.attr.uid, 1000)
  t.is(h.attr.gid, 1001)
})

asRoot('ids of the guest are others on the host, in every request and reply', t => {
  const { h, host } = share(t, {
    translateUid: ['map:1000:51000:10'],
    translateGid: ['map:1000:61000:10'],
  })
  h.setattr(1, { setMode: true, mode: 0o777 })
  Object.assign(h.request, { uid: 1001, gid: 1002 })
  const made: readonly (readonly [string, () => number])[] = [
    ['file', () => file(h, 'file')],
    ['dir', () => h.mkdir(1, 'dir')],
    ['fifo', () => h.mknod(1, 'fifo', 0o010644)],
    ['soft', () => h.symlink(1, 'soft', 'file')],
  ]
  for (const [name, make] of made) {
    const nodeid = make()
    t.is(h.entry.attr.uid, 1001, name)
    t.is(h.entry.attr.gid, 1002, name)
    t.is(lstatSync(host(name)).uid, 51001, name)
    t.is(lstatSync(host(name)).gid, 61002, name)
    t.is(h.stat(nodeid).uid, 1001, name)
    t.is(h.lookup(1, name), nodeid)
    t.is(h.entry.attr.gid, 1002, name)
  }
  const nodeid = h.lookup(1, 'file')
  t.is(h.link(nodeid, 1, 'hard'), nodeid)
  t.is(h.entry.attr.uid, 1001)
  const fh = h.opendir(1)
  const listed = h.readdirOnce(1, fh, 0n, 100, true)
  h.fs.releasedir(h.request, 1, fh)
  t.true(Array.isArray(listed))
  for (const entry of listed as Exclude<typeof listed, number>)
    if (entry.nodeid !== 0) t.deepEqual([entry.uid, entry.gid], [1001, 1002], entry.name)
  t.is(h.setattr(nodeid, { setUid: true, uid: 1009 }), 0)
  t.deepEqual([h.attr.uid, h.attr.gid], [1009, 1002])
  t.deepEqual([lstatSync(host('file')).uid, lstatSync(host('file')).gid], [51009, 61002])
  t.is(h.setattr(nodeid, { setGid: true, gid: 7 }), 0)
  t.deepEqual([lstatSync(host('file')).uid, lstatSync(host('file')).gid], [51009, 7])
})

asRoot('ids of the host outside the rules are shown as they are', t => {
  const { h, host } = share(t, { translateUid: ['map:0:50000:10'] })
  writeFileSync(host('f'), '')
  chownSync(host('f'), 4242, 4243)
  h.lookup(1, 'f')
  t.deepEqual([h.entry.attr.uid, h.entry.attr.gid], [4242, 4243])
})

asRoot('root of the guest may be somebody else', t => {
  const { h, host } = share(t, {
    translateUid: ['map:0:50000:10'],
    translateGid: ['map:0:60000:10'],
  })
  h.setattr(1, { setMode: true, mode: 0o777 })
  Object.assign(h.request, { uid: 0, gid: 0 })
  file(h, 'f')
  t.deepEqual([lstatSync(host('f')).uid, lstatSync(host('f')).gid], [50000, 60000])
  t.deepEqual([h.entry.attr.uid, h.entry.attr.gid], [0, 0])
})

test('a forbidden id makes nothing, and is given to nothing', t => {
  const { h } = share(t, { translateUid: ['forbid-guest:5:1'], translateGid: ['forbid-guest:6:1'] })
  const nodeid = file(h, 'f')
  const before = { ...h.stat(nodeid) }
  t.is(h.setattr(nodeid, { setUid: true, uid: 5, setMode: true, mode: 0 }), EPERM)
  t.is(h.setattr(nodeid, { setGid: true, gid: 6 }), EPERM)
  t.deepEqual({ ...h.stat(nodeid) }, before, 'the mode is not changed either')
  for (const who of [
    { uid: 5, gid: ownGid },
    { uid: ownUid, gid: 6 },
  ]) {
    Object.assign(h.request, who)
    t.is(h.create(1, 'g').nodeid, EPERM)
    t.is(h.mkdir(1, 'g'), EPERM)
    t.is(h.mknod(1, 'g', 0o644), EPERM)
    t.is(h.symlink(1, 'g', 'f'), EPERM)
  }
  t.deepEqual(h.list(1), ['f'])
})

asRoot('supplementary groups are translated, in the request they stay', t => {
  const { h, host } = share(t, { translateGid: ['map:1000:61000:10', 'forbid-guest:2000:1'] })
  const shared = h.mkdir(1, 'shared')
  h.setattr(shared, { setMode: true, mode: 0o770 })
  chownSync(host('shared'), 0, 61005)
  const groupsAt = REQUEST_AT + 49152
  const { view } = h.context
  const ask = (...groups: number[]): void => {
    for (const [i, gid] of groups.entries()) view.setUint32(groupsAt + i * 4, gid, true)
    Object.assign(h.request, { uid: 1001, gid: 1001, groupsAt, groupCount: groups.length })
  }
  h.setattr(1, { setMode: true, mode: 0o777 })
  ask(1001)
  t.is(h.mkdir(shared, 'a'), -13, 'not in the group')
  ask(1001, 1005)
  t.true(h.mkdir(shared, 'a') > 0, 'in the group')
  t.is(lstatSync(host('shared/a')).gid, 61001)
  t.is(view.getUint32(groupsAt + 4, true), 1005)
  ask(1005, 2000)
  t.is(h.mkdir(shared, 'b'), EPERM, 'a forbidden one among them')
})
