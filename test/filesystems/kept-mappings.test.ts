/** Small reads that are copied from a mapping: the same bytes, whatever becomes of the file. */
import { execFileSync } from 'node:child_process'
import {
  appendFileSync,
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import type { FuseClient } from '../helpers/fuse-client.js'
import { type Rig, rig } from '../helpers/rig.js'
import { randomNumbers } from './metadata-changes.js'

const PAGE = 4096

/** A share with one file of so many pages, opened by the guest and read until it is mapped. */
function mappedFile(
  t: ExecutionContext,
  pages: number,
  folder?: string,
): { s: Rig; client: FuseClient; path: string; node: number; fh: bigint; content: Buffer } {
  const s = rig(t, { keepsMetadata: true, ...(folder === undefined ? {} : { folder }) })
  const path = join(s.folder, 'file')
  const content = Buffer.alloc(pages * PAGE)
  for (let i = 0; i < content.length; i += 4) content.writeUInt32LE((i * 2654435761) >>> 0, i)
  writeFileSync(path, content)
  const client = s.client()
  const node = client.lookup(1, 'file')
  const fh = client.open(node)
  return { s, client, path, node, fh, content }
}

function readAll(
  client: FuseClient,
  node: number,
  fh: bigint,
  pages: number,
  rounds: number,
): void {
  for (let round = 0; round < rounds; round++)
    for (let page = 0; page < pages; page++) client.read(node, fh, page * PAGE, PAGE)
}

test('a file that is read in small pieces again and again is read without system calls', t => {
  const { s, client, node, fh, content } = mappedFile(t, 8)
  readAll(client, node, fh, 8, 12)
  const before = s.fs.metadataCounters.mappedReads
  const readv = s.context.readv.bind(s.context)
  let calls = 0
  s.context.readv = (...args) => {
    calls++
    return readv(...args)
  }
  for (let i = 0; i < 50; i++) {
    const offset = (i * 1237) % (7 * PAGE)
    t.deepEqual(
      Buffer.from(client.read(node, fh, offset, PAGE)),
      content.subarray(offset, offset + PAGE),
    )
  }
  t.is(calls, 0)
  t.true(s.fs.metadataCounters.mappedReads - before >= 50)
  // Where the file ends the host is asked.
  t.is(client.read(node, fh, 8 * PAGE - 10, PAGE).length, 10)
  t.is(client.read(node, fh, 9 * PAGE, PAGE).length, 0)
  t.true(calls >= 2)
  client.release(node, fh)
  t.is(s.fs.metadataCounters.mappings, 0)
})

for (const place of [undefined, '/dev/shm'])
  test(`whatever the host does to it, the guest reads what is there (${place ?? 'on disk'})`, t => {
    const folder = place === undefined ? undefined : mkdtempSync(join(place, 'virtiofsd-mapped-'))
    if (folder !== undefined) t.teardown(() => rmSync(folder, { recursive: true }))
    const { s, client, path, node, fh } = mappedFile(t, 8, folder)
    const host = openSync(path, 'r+')
    t.teardown(() => closeSync(host))
    const seed = Date.now() % 1_000_000
    const random = randomNumbers(seed)
    const upTo = (most: number): number => Math.floor(random() * most)
    for (let round = 0; round < 8000; round++) {
      const kind = upTo(400)
      // In memory a file with holes is not mapped.
      const most = place === undefined ? 10 * PAGE : statSync(path).size
      if (kind === 0) writeSync(host, Buffer.alloc(upTo(3000) + 1, round), 0, undefined, upTo(most))
      else if (kind === 1) ftruncateSync(host, upTo(most))
      else if (kind === 2) appendFileSync(path, Buffer.alloc(upTo(5000), round + 1))
      else if (kind === 3) client.write(node, fh, upTo(most), Buffer.alloc(100, round + 2))
      const offset = upTo(10 * PAGE)
      const bytes = upTo(2 * PAGE) + 1
      const wanted = Buffer.alloc(bytes)
      const length = readSync(host, wanted, 0, bytes, offset)
      const got = Buffer.from(client.read(node, fh, offset, bytes))
      if (!got.equals(wanted.subarray(0, length)))
        t.fail(
          `seed ${seed}, round ${round}: ${bytes} bytes at ${offset} of ${statSync(path).size}`,
        )
    }
    t.true(s.fs.metadataCounters.mappedReads > 10, `${s.fs.metadataCounters.mappedReads} mapped`)
  })

/** io_submit(2): appends the second argument to the file that is the first. */
const AIO_APPEND = `
import ctypes, os, platform, struct, sys
setup, get, submit = (206, 208, 209) if platform.machine() == 'x86_64' else (0, 4, 2)
libc = ctypes.CDLL(None)
fd = os.open(sys.argv[1], os.O_WRONLY)
data = ctypes.create_string_buffer(sys.argv[2].encode())
context = ctypes.c_ulong()
assert libc.syscall(setup, 1, ctypes.byref(context)) == 0
# struct iocb: IOCB_CMD_PWRITE
block = struct.pack('=QIIHhIQQqQII', 0, 0, 0, 1, 0, fd, ctypes.addressof(data), len(sys.argv[2]), os.fstat(fd).st_size, 0, 0, 0)
request = ctypes.create_string_buffer(block)
assert libc.syscall(submit, context, 1, (ctypes.c_void_p * 1)(ctypes.addressof(request))) == 1
event = ctypes.create_string_buffer(32)
assert libc.syscall(get, context, 1, 1, event, None) == 1
assert struct.unpack('=QQqq', event.raw)[2] == len(sys.argv[2])
`

test('what the host appends without an event is read at once', t => {
  const { client, path, node, fh } = mappedFile(t, 8)
  readAll(client, node, fh, 8, 12)
  execFileSync('python3', ['-c', AIO_APPEND, path, 'appended'])
  t.is(Buffer.from(client.read(node, fh, 8 * PAGE, PAGE)).toString(), 'appended')
  t.is(
    Buffer.from(client.read(node, fh, 8 * PAGE - 1, 2))
      .subarray(1)
      .toString(),
    'a',
  )
})

test('a file cut short during the copy is read by the system call', t => {
  const { s, client, path, node, fh } = mappedFile(t, 8)
  readAll(client, node, fh, 8, 12)
  t.is(s.fs.metadataCounters.mappings, 1)
  // As if the host did it after the look for changes.
  s.fs.renew = () => undefined
  client.read(node, fh, 0, PAGE)
  truncateSync(path, PAGE)
  t.is(client.read(node, fh, 4 * PAGE, PAGE).length, 0)
  t.is(s.fs.metadataCounters.torn, 1)
  t.is(s.fs.metadataCounters.mappings, 0)
})

test('holes of a file in memory stay holes', t => {
  const folder = mkdtempSync('/dev/shm/virtiofsd-mapped-')
  t.teardown(() => rmSync(folder, { recursive: true }))
  const { client, path, node, fh } = mappedFile(t, 1, folder)
  truncateSync(path, 64 * PAGE)
  const { blocks } = statSync(path)
  readAll(client, node, fh, 64, 4)
  t.is(statSync(path).blocks, blocks)
})
