/** The shared table: slots, ticks, files; and what damage of every kind does to it. */
import {
  closeSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import {
  BUCKET_SLOTS,
  BUCKET_WORDS,
  DEFAULT_BUCKET_BITS,
  HEADER_WORDS,
  MANY,
  MOST_AHEAD,
  MOST_BELIEVED,
  NONE,
  ownerOf,
  pack,
  Slot,
  SLOT_WORDS,
  tableBytes,
  tickOf,
  ticksFor,
  ticksLeft,
  ticksSince,
} from '../../protocol/version-table/layout.js'
import { Errno } from '../../protocol/errno.js'
import { mapTable, openTableFile, takeGuestNumber } from '../../src/coherence/table-file.js'
import {
  FULL,
  GUARDED,
  VersionTable,
  VersionTableError,
} from '../../src/coherence/version-table.js'
import { native } from '../../src/native/addon.js'
import { inChild, makeContext } from '../native/support.js'
import { keyOf, tableInMemory } from './support.js'

const TABLE = new URL('../../src/vfs/identities.js', import.meta.url).href
const FILE = new URL('../../src/coherence/table-file.js', import.meta.url).href

function tableFolder(t: ExecutionContext): string {
  const folder = mkdtempSync('/dev/shm/virtiofsd-table-')
  t.teardown(() => rmSync(folder, { recursive: true }))
  return folder
}

test('a slot is five words, three of them and a guard are a cache line', t => {
  t.is(1 + BUCKET_SLOTS * SLOT_WORDS, BUCKET_WORDS)
  t.is(BUCKET_WORDS * 4, 64)
  t.is(HEADER_WORDS * 4, 4096)
  t.is(tableBytes(DEFAULT_BUCKET_BITS), 4096 + 64 * 131_072)
})

test('an empty table has the bytes that protocol/version-table says', t => {
  const { words } = tableInMemory(4)
  t.is(words.length * 4, 4096 + 16 * 64)
  t.is(new TextDecoder().decode(new Uint8Array(words.buffer, 0, 4)), 'VTBL')
  t.deepEqual([...words.subarray(1, 4)], [1, 4, 1])
  t.true(words.subarray(4).every(word => word === 0))
})

test('a word keeps owner and tick, and ticks ahead are told from those past', t => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: MANY }),
      fc.integer({ min: 0, max: 2 ** 48 }),
      fc.integer({ min: 0, max: MOST_BELIEVED }),
      (owner, ms, ahead) => {
        const now = tickOf(ms)
        const word = pack(owner, now + ahead)
        t.is(ownerOf(word), owner)
        t.is(ticksLeft(word, now), ahead)
        t.is(ticksLeft(pack(NONE, now + ahead), now), 0)
        t.is(ticksSince(pack(owner, now - ahead), now), ahead)
        t.is(ticksLeft(pack(owner, now + MOST_BELIEVED + 1 + ahead), now), 0)
      },
    ),
  )
})

test('so many ticks last at least so many milliseconds', t => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 2 ** 40 }),
      fc.integer({ min: 0, max: 8000 }),
      (at, ms) => {
        t.is(ticksLeft(pack(1, tickOf(at) + ticksFor(ms)), tickOf(at + ms)) > 0, true)
      },
    ),
  )
})

test('slots: an inode keeps its own while anything depends on it, and no two are given to one inode', t => {
  const operation = fc.record({
    ino: fc.integer({ min: 0, max: 120 }),
    lease: fc.integer({ min: 0, max: 40 }),
    pass: fc.integer({ min: 0, max: 30 }),
  })
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 300 }), operations => {
      const { words, table } = tableInMemory()
      let now = 500
      /** Slots by inode, while their lease lasts. */
      const leased = new Map<number, { slot: number; until: number }>()
      for (const { ino, lease, pass } of operations) {
        now += pass
        for (const [other, held] of leased) if (held.until <= now) leased.delete(other)
        table.seek(keyOf(ino))
        const slot = table.insert(now)
        const held = leased.get(ino)
        if (held !== undefined) t.is(slot, held.slot)
        if (slot === FULL) {
          // All three of the bucket are leased to others.
          const bucketOf = (at: number): number => Math.floor((at - HEADER_WORDS) / BUCKET_WORDS)
          const counts = new Map<number, number>()
          for (const other of leased.values())
            counts.set(bucketOf(other.slot), (counts.get(bucketOf(other.slot)) ?? 0) + 1)
          t.true([...counts.values()].some(count => count === BUCKET_SLOTS))
          continue
        }
        t.not(slot, GUARDED)
        t.is(table.find(), slot)
        for (const [other, { slot: theirs }] of leased) t.is(theirs === slot, other === ino)
        const end = Math.max(now + lease, held?.until ?? 0)
        t.true(table.swap(slot, Slot.lease, table.word(slot, Slot.lease), pack(1, end)))
        if (end > now) leased.set(ino, { slot, until: end })
      }
      for (let at = HEADER_WORDS; at < words.length; at += BUCKET_WORDS) {
        t.is(words[at], 0)
        const tags = [0, 1, 2].map(i => words[at + 1 + i * SLOT_WORDS]!).filter(tag => tag !== 0)
        t.is(new Set(tags).size, tags.length)
      }
    }),
  )
})

test('a version never goes back, and a slot given away gets one that nobody has seen', t => {
  const { table } = tableInMemory()
  table.seek(keyOf(1))
  const slot = table.insert(100)
  const first = table.bump(slot)
  t.is(table.word(slot, Slot.version), first)
  t.true(table.bump(slot) > first)
  const seen = table.clock
  table.advance()
  // Others take its place.
  for (let ino = 2; table.belongs(slot) && ino < 10_000; ino++) {
    table.seek(keyOf(ino))
    table.insert(100)
    table.seek(keyOf(1))
  }
  t.false(table.belongs(slot))
  t.true(table.word(slot, Slot.version) > seen)
})

test('while a slot is being given away the bucket gives no other, and forgets that in time', t => {
  const { words, table } = tableInMemory()
  table.seek(keyOf(1))
  for (let at = HEADER_WORDS; at < words.length; at += BUCKET_WORDS) words[at] = pack(1, 100 + 50)
  t.is(table.insert(100), GUARDED)
  t.is(table.guard(100), 0)
  t.true(table.insert(150) > 0)
})

/** Runs `use`; between the moment it has chosen the slot and the one it takes it, `meanwhile` happens. */
function between<T>(words: Int32Array, tag: number, meanwhile: () => void, use: () => T): T {
  const { compareExchange } = Atomics
  Atomics.compareExchange = ((array: Int32Array, at: number, from: number, to: number) => {
    if (array === words && from === tag) {
      Atomics.compareExchange = compareExchange
      meanwhile()
    }
    return compareExchange(array, at, from, to)
  }) as typeof compareExchange
  try {
    return use()
  } finally {
    Atomics.compareExchange = compareExchange
  }
}

test('who was stopped after he read the clock heeds what others have written since', t => {
  const { table } = tableInMemory()
  const bucketOf = (ino: number): number => {
    table.seek(keyOf(ino))
    return table.bucket
  }
  const now = 10_000
  for (const stopped of [1, 20, MOST_AHEAD]) {
    const guard = table.guard(now)
    t.not(guard, 0)
    t.is(table.insert(now - stopped), GUARDED)
    t.is(table.guard(now - stopped), 0)
    table.unguard(table.bucket, guard)
  }
  const same = Array.from({ length: 2000 }, (_, i) => i).filter(
    ino => bucketOf(ino) === bucketOf(0),
  )
  for (const ino of same.slice(0, BUCKET_SLOTS)) {
    bucketOf(ino)
    table.swap(table.insert(now), Slot.lease, 0, pack(2, now + MOST_AHEAD))
  }
  bucketOf(same[BUCKET_SLOTS]!)
  for (const stopped of [1, 20, MOST_AHEAD]) t.is(table.insert(now - stopped), FULL)
})

for (const [what, field, guardedFor] of [
  ['a lease', Slot.lease, 30],
  ['a change', Slot.change, MOST_AHEAD],
] as const)
  test(`${what} that comes while its slot is given away keeps the bucket's guard for as long as it may matter`, t => {
    const { words, table } = tableInMemory()
    const inos = Array.from({ length: 2000 }, (_, i) => i)
    const bucketOf = (ino: number): number => {
      table.seek(keyOf(ino))
      return table.bucket
    }
    const [first, ...rest] = inos.filter(ino => bucketOf(ino) === bucketOf(0))
    const others = rest.slice(0, BUCKET_SLOTS)
    bucketOf(first!)
    const slot = table.insert(100)
    const tag = words[slot]!
    for (const ino of others.slice(1)) {
      bucketOf(ino)
      table.swap(table.insert(100), Slot.lease, 0, pack(2, 150))
    }
    bucketOf(others[0]!)
    const taken = between(
      words,
      tag,
      () => table.swap(slot, field, table.word(slot, field), pack(3, 130)),
      () => table.insert(100),
    )
    t.is(taken, slot)
    // The former inode, which somebody relies on, gets no other slot meanwhile.
    bucketOf(first!)
    t.is(table.insert(100), GUARDED)
    t.is(table.insert(100 + guardedFor - 1), GUARDED)
    t.not(table.insert(100 + guardedFor), GUARDED)
  })

test('a file becomes a table once, and is found by others', t => {
  const path = join(tableFolder(t), 'table')
  const context = makeContext(t)
  const fd = openTableFile(path)
  const again = openTableFile(path)
  t.teardown(() => [fd, again].forEach(closeSync))
  const one = mapTable(context, fd, 6)
  const other = mapTable(context, again)
  t.is(statSync(path).size, tableBytes(6))
  t.is(statSync(path).mode & 0o777, 0o600)
  // The memory is there, not only promised.
  t.true(statSync(path).blocks * 512 >= tableBytes(6))
  one.advance()
  t.is(other.clock, 2)
})

test('guests get numbers of their own, which come back when their daemon dies', t => {
  const path = join(tableFolder(t), 'table')
  const context = makeContext(t)
  const fds = [openTableFile(path), openTableFile(path)]
  t.teardown(() => fds.forEach(closeSync))
  mapTable(context, fds[0]!, 6)
  const mine = takeGuestNumber(context, fds[0]!)
  const seen = new Set([mine])
  for (let i = 0; i < 50; i++) {
    const number = takeGuestNumber(context, fds[1]!)
    t.false(seen.has(number) && number === mine)
    t.true(number >= 1 && number <= 0xffd)
  }
  const child = inChild(
    async ({ Context }, file, table) => {
      const module = await import(file)
      const its = new Context({ arenaBytes: 65536, maxSegments: 64, poolThreads: 1 })
      const fd = module.openTableFile(table)
      return module.takeGuestNumber(its, fd)
    },
    FILE,
    path,
  )
  t.not(child.value, mine)
  // The child is gone: every number but ours can be had.
  t.is(context.ofdLock(fds[1]!, 37, 1, Number(child.value), 1, 0), 0)
})

test('a memfd that was handed over is a table; who gets it by the same open file description is another guest', t => {
  const context = makeContext(t)
  const memfd = native.memfd('table', 0)
  const fds = ['/dev/fd', '/proc/self/fd'].map(folder => openTableFile(`${folder}/${memfd}`))
  t.teardown(() => [memfd, ...fds].forEach(closeSync))
  const [one, other] = fds.map(fd => mapTable(context, fd, 6))
  one!.advance()
  t.is(other!.clock, 2)
  const number = takeGuestNumber(context, fds[0]!)
  t.is(context.ofdLock(fds[1]!, 37, 1, number, 1, 0), -Errno.EAGAIN)
  t.throws(() => openTableFile('/dev/fd/99999'), { code: 'ENOENT' })
})

test('what is no table is refused with a reason', t => {
  const folder = tableFolder(t)
  const context = makeContext(t)
  const refused = (name: string, content: Uint8Array): string => {
    const path = join(folder, name)
    writeFileSync(path, content)
    const fd = openTableFile(path)
    try {
      return t.throws(() => mapTable(context, fd), { instanceOf: VersionTableError })!.message
    } finally {
      closeSync(fd)
      t.deepEqual(new Uint8Array(readFileSync(path)), content)
    }
  }
  const good = tableInMemory(4).words
  t.regex(refused('text', new TextEncoder().encode('hello')), /no version table/)
  t.regex(refused('short', new Uint8Array(good.buffer).slice(0, 4096)), /no version table/)
  t.regex(refused('long', new Uint8Array(tableBytes(5)).fill(7)), /no version table/)
  const later = Int32Array.from(good)
  later[1] = 2
  t.regex(refused('later', new Uint8Array(later.buffer)), /layout 2/)
  const dead = Int32Array.from(good)
  dead[0] = -1
  t.regex(refused('dead', new Uint8Array(dead.buffer)), /given it up/)
})

test('a table lies in memory, and its name is no link', t => {
  const folder = tableFolder(t)
  symlinkSync('/dev/null', join(folder, 'link'))
  t.throws(() => openTableFile(join(folder, 'link')), { code: 'ELOOP' })
  t.throws(() => openTableFile('/dev/null'), { message: /no plain file/ })
  t.throws(() => openTableFile(folder), { code: 'EISDIR' })
  const disk = mkdtempSync(join(tmpdir(), 'virtiofsd-table-'))
  t.teardown(() => rmSync(disk, { recursive: true }))
  if (statSync(disk).dev === statSync('/dev/shm').dev) return t.pass()
  return t.throws(() => openTableFile(join(disk, 'table')), { message: /tmpfs/ })
})

test('a file that its maker left without header is finished by the next', t => {
  const path = join(tableFolder(t), 'table')
  writeFileSync(path, new Uint8Array(tableBytes(DEFAULT_BUCKET_BITS)))
  const context = makeContext(t)
  const fd = openTableFile(path)
  t.teardown(() => closeSync(fd))
  t.true(mapTable(context, fd).intact)
})

for (const [what, bytes] of [
  ['emptied', 0],
  ['cut to a page', 4096],
  ['cut in half', 4096 + 64 * 8],
] as const)
  test(`a table ${what} under a daemon does not end it`, t => {
    const path = join(tableFolder(t), 'table')
    const child = inChild(
      async ({ Context }, file, module, table, bytes) => {
        const { mapTable, openTableFile } = await import(file)
        const { InodeKey } = await import(module)
        const { ftruncateSync } = await import('node:fs')
        const context = new Context({ arenaBytes: 65536, maxSegments: 64, poolThreads: 1 })
        const fd = openTableFile(table)
        const mapped = mapTable(context, fd, 10)
        const before = mapped.intact
        ftruncateSync(fd, bytes)
        const key = new InodeKey()
        for (let ino = 0; ino < 5000; ino++) {
          key.inoLow = ino
          mapped.seek(key)
          mapped.insert(100)
        }
        return [before, mapped.intact]
      },
      FILE,
      TABLE,
      path,
      bytes,
    )
    t.is(child.signal, null, child.stderr)
    t.deepEqual(child.value, [true, false])
  })

test('any bytes in the table are harmless', t => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat({ max: 16 * BUCKET_WORDS - 1 }), fc.integer()), { maxLength: 200 }),
      fc.array(fc.nat({ max: 60 }), { minLength: 1, maxLength: 100 }),
      (scribbles, inos) => {
        const { words, table } = tableInMemory()
        for (const [at, value] of scribbles) words[HEADER_WORDS + at] = value
        for (const ino of inos) {
          table.seek(keyOf(ino))
          const slot = table.insert(1000)
          t.true(slot === FULL || slot === GUARDED || (slot > HEADER_WORDS && slot < words.length))
          if (slot > 0) {
            table.bump(slot)
            t.true(ticksLeft(table.word(slot, Slot.lease), 1000) <= MOST_BELIEVED)
          }
        }
      },
    ),
  )
})

test('a header of another length than the file is refused', t => {
  const { words } = tableInMemory(5)
  words[2] = 4
  t.throws(() => new VersionTable(words), { instanceOf: VersionTableError })
})
