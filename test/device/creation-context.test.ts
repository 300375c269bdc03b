/** What comes with a creation: supplementary groups and security context; and what INIT must agree on. */
import { chmodSync, chownSync, existsSync, mkdirSync, statSync } from 'node:fs'
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import test from 'ava'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { FuseClient, text } from '../helpers/fuse-client.js'
import { rig } from '../helpers/rig.js'

const MKDIR = 9
const CREATE = 35
const INIT = 26
const EACCES = -13
const EPROTO = -71
/** FUSE_INIT_EXT and the other first flags; FUSE_SECURITY_CTX, FUSE_CREATE_SUPP_GROUP. */
const FLAGS = 0x7fff_ffff
const FLAGS2 = (1 << 0) | (1 << 2)

const asRoot = process.geteuid?.() === 0 ? test : test.skip

function padded(bytes: Uint8Array): Uint8Array {
  return concat(bytes, new Uint8Array((8 - (bytes.length % 8)) % 8))
}

/** struct fuse_ext_header, fuse_supp_groups. */
function groups(...ids: readonly number[]): Uint8Array {
  const body = padded(u32s(ids.length, ...ids))
  return concat(u32s(8 + body.length, 32), body)
}

/** struct fuse_secctx_header with one fuse_secctx. */
function context(name: string, value: Uint8Array): Uint8Array {
  const body = padded(concat(u32s(value.length, 0), text(name), value))
  return concat(u32s(8 + body.length, 1), body)
}

function mkdir(client: FuseClient, name: string, extension: Uint8Array, uid = 0, gid = 0) {
  const body = concat(u32s(0o755, 0), text(name), extension)
  const raw = concat(client.header(MKDIR, 1, body.length, 9n, uid, gid), body)
  new DataView(raw.buffer).setUint16(36, extension.length / 8, true)
  return client.request(MKDIR, 1, body, { raw })!
}

asRoot('a supplementary group of the caller counts while it creates', t => {
  const r = rig(t)
  const client = r.client(FLAGS, FLAGS2)
  chownSync(r.folder, 0, 4242)
  chmodSync(r.folder, 0o775)
  t.is(mkdir(client, 'other', groups(7, 8), 1000, 1000).error, EACCES)
  const made = mkdir(client, 'with', groups(7, 4242), 1000, 1000)
  t.is(made.error, 0)
  const info = statSync(join(r.folder, 'with'))
  t.deepEqual([info.uid, info.gid], [1000, 1000])
  // And not any longer.
  t.is(mkdir(client, 'later', groups(7), 1000, 1000).error, EACCES)
  client.forget(made.body.getBigUint64(0, true), 1)
})

asRoot('the security context of a new node is set with it', t => {
  const r = rig(t, {
    fuse: { securityContext: true },
    host: { securityContext: true, xattr: true },
  })
  const client = r.client(FLAGS, FLAGS2)
  const value = new TextEncoder().encode('system_u:object_r:test_t')
  const made = mkdir(client, 'labelled', context('security.test', value))
  t.is(made.error, 0)
  const read = execFileSync('getfattr', [
    '--absolute-names',
    '--only-values',
    '-n',
    'security.test',
    join(r.folder, 'labelled'),
  ])
  t.is(read.toString(), 'system_u:object_r:test_t')
  client.forget(made.body.getBigUint64(0, true), 1)
})

asRoot('a node whose security context cannot be set is not left behind', t => {
  const r = rig(t, {
    fuse: { securityContext: true },
    host: { securityContext: true, xattr: true },
  })
  const client = r.client(FLAGS, FLAGS2)
  // No file system has room for it in one attribute, or no name like it.
  const tooLong = context(`security.${'n'.repeat(300)}`, new Uint8Array(4))
  t.true(mkdir(client, 'dir', tooLong).error < 0)
  t.false(existsSync(join(r.folder, 'dir')))
  const body = concat(u32s(0o102, 0o100644, 0, 0), text('file'), tooLong)
  const raw = concat(client.header(CREATE, 1, body.length, 11n), body)
  new DataView(raw.buffer).setUint16(36, tooLong.length / 8, true)
  t.true(client.request(CREATE, 1, body, { raw })!.error < 0)
  t.false(existsSync(join(r.folder, 'file')))
})

test('a guest without what is required is refused at INIT', t => {
  const required = { posixAcl: true, securityContext: false }
  const r = rig(t, {
    fuse: { posixAcl: true, required },
    host: { posixAcl: true, xattr: true },
  })
  mkdirSync(join(r.folder, 'd'))
  const client = new FuseClient(r.front, r.front.rings[1]!)
  const POSIX_ACL = 1 << 20
  const init = (flags: number) =>
    client.request(INIT, 0, concat(u32s(7, 38, 131072, flags, 0), new Uint8Array(44)))!.error
  t.is(init(FLAGS & ~POSIX_ACL), EPROTO)
  t.true(client.request(3, 1, concat(u32s(0, 0), u64(0n)))!.error < 0)
  t.is(init(FLAGS), 0)
  t.true(client.lookup(1, 'd') > 0)
})
