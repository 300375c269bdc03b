/** Events of fanotify that name directory and entry: built by hand from the kernel's header. */
import test from 'ava'
import fc from 'fast-check'
import { readEvents } from '../../protocol/linux/fanotify.js'
import { type NamedEvent, OVERFLOW, readNamedEvents } from '../../protocol/linux/fanotify-names.js'
import { concat, u32s } from '../helpers/front-end.js'

const latin1 = (text: string): Uint8Array => Uint8Array.from(text, one => one.charCodeAt(0))
const latin1Of = (bytes: Uint8Array): string => Buffer.from(bytes).toString('latin1')
const u16 = (value: number): Uint8Array => Uint8Array.of(value & 255, value >> 8)

/** struct fanotify_event_info_fid; `name` gets its NUL and is padded to 4 bytes. */
function record(type: number, handle: string, name?: string): Uint8Array {
  let body = concat(latin1('FSID8765'), u32s(handle.length, 1), latin1(handle))
  if (name !== undefined) body = concat(body, latin1(`${name}\0`))
  body = concat(body, new Uint8Array(-body.length & 3))
  return concat(Uint8Array.of(type, 0), u16(4 + body.length), body)
}
const key = (handle: string): string =>
  `FSID8765${String.fromCharCode(handle.length)}\0\0\0\x01\0\0\0${handle}`

function event(mask: number, pid: number, ...records: Uint8Array[]): Uint8Array {
  const body = concat(...records)
  return concat(
    u32s(24 + body.length),
    Uint8Array.of(3, 0),
    u16(24),
    u32s(mask, 0, 0xffff_ffff, pid),
    body,
  )
}
const read = (...events: Uint8Array[]): NamedEvent[] => {
  const all = Buffer.from(concat(...events))
  return [...readNamedEvents(all, all.length)]
}

test('directory, name and inode of each event are read', t => {
  const [created, renamed, onItself, bare] = read(
    event(0x100, 7, record(2, 'dir', 'na\xffme'), record(1, 'child')),
    event(0x1000_0000, 8, record(10, 'old', 'a'), record(12, 'new', 'b'), record(1, 'child')),
    event(0x4000_0004, 9, record(3, 'dir')),
    event(0x4000, 0),
  )
  const nowhere = { place: undefined, from: undefined, to: undefined, inode: undefined }
  t.deepEqual(created, {
    ...nowhere,
    mask: 0x100,
    pid: 7,
    place: { directory: key('dir'), name: 'na\xffme' },
    inode: key('child'),
  })
  t.deepEqual(renamed, {
    ...nowhere,
    mask: 0x1000_0000,
    pid: 8,
    from: { directory: key('old'), name: 'a' },
    to: { directory: key('new'), name: 'b' },
    inode: key('child'),
  })
  t.deepEqual(onItself, {
    ...nowhere,
    mask: 0x4000_0004,
    pid: 9,
    place: { directory: key('dir'), name: '' },
  })
  t.deepEqual(bare, OVERFLOW)
})

test('an event that cannot be is an overflow, and the end', t => {
  t.deepEqual(read(u32s(10, 0, 0, 0, 0, 0), event(0x100, 7)), [OVERFLOW])
  t.deepEqual(read(u32s(1000, 0, 0, 0, 0, 0)), [OVERFLOW])
})

/** A record with `room` for the bytes of its handle, which says that it has `handleBytes`. */
function handleOf(handleBytes: number, room: number): Uint8Array {
  return concat(
    Uint8Array.of(1, 0),
    u16(20 + room),
    latin1('FSID8765'),
    u32s(handleBytes, 1),
    latin1('h'.repeat(room)),
  )
}

const HANDLES: readonly [what: string, handleBytes: number, room: number, known: boolean][] = [
  ['as long as its record', 16, 16, true],
  ['of the longest kind (MAX_HANDLE_SZ)', 128, 128, true],
  ['empty', 0, 16, false],
  ['longer than its record', 17, 16, false],
  ['longer than the kernel makes them', 132, 132, false],
  ['of 4 GiB', 0xffff_ffff, 16, false],
]
for (const [what, handleBytes, room, known] of HANDLES)
  test(`a file handle ${what} ${known ? 'names' : 'does not name'} an inode, with names and without`, t => {
    // What follows the record belongs to another one.
    const whole = Buffer.from(event(0x2, 7, handleOf(handleBytes, room), record(9, 'another one')))
    const want = known ? `FSID8765${latin1Of(u32s(handleBytes, 1))}${'h'.repeat(room)}` : undefined
    const [named] = readNamedEvents(whole, whole.length)
    t.is(named!.inode, want)
    const keys: (string | undefined)[] = []
    readEvents(whole, whole.length, { changed: key => keys.push(key) })
    t.deepEqual(keys, [want])
  })

test('any bytes are read without an error and without end', t => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), fc.uint8Array({ maxLength: 100 }), (a, b) => {
      const whole = concat(event(1, 2, a), b)
      t.true([...readNamedEvents(Buffer.from(whole), whole.length)].length < 20)
      let events = 0
      readEvents(Buffer.from(whole), whole.length, { changed: () => events++ })
      t.true(events < 20)
    }),
    { numRuns: 500 },
  )
})
