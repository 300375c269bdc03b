/** What a guest is told of files it has open, so that it drops pages that others have changed. */
import test from 'ava'
import { FileMemories } from '../../src/coherence/file-memory.js'
import { ChangeTime } from '../../src/vfs/identities.js'
import { Attributes } from '../../src/vfs/replies.js'

const FILE = 2
/** How long what is under way may overtake each other; and the time at which all of it is told, where that does not matter. */
const MARGIN_MS = 250
const NOW_MS = 2 ** 31 - 100

function timeOf(sec: number, nsec: number): ChangeTime {
  const time = new ChangeTime()
  time.sec = sec
  time.nsec = nsec
  return time
}

/** Written at that time. */
function attributesOf(sec: number, nsec: number): Attributes {
  const attr = new Attributes()
  attr.sizeBytes = 4
  attr.mtimeSec = attr.ctimeSec = sec
  attr.mtimeNsec = attr.ctimeNsec = nsec
  return attr
}

test('two writes of others in one tick of the clock, the guest opens the file in between: it is told', t => {
  const files = new FileMemories(MARGIN_MS)
  // It knows an mtime from LOOKUP, and was given no lease: the first write was just before.
  files.opened(FILE, 7, 2, 'none', timeOf(100, 40), false)
  const attr = attributesOf(100, 40)
  t.true(files.reported(FILE, 9, 4, 'none', attr, false, false, NOW_MS))
  t.is(attr.mtimeNsec, 41)
})

/** What a reply at that time says of an mtime of 100 s and 40 ns, and whether it may be cached. */
function tell(files: FileMemories, version: number, count: number, nowMs: number, own = false) {
  const attr = attributesOf(100, 40)
  const hidden = files.reported(FILE, version, count, 'none', attr, own, false, nowMs | 0)
  return [attr.mtimeNsec, !hidden]
}

test('it is told for as long as replies may overtake each other, and each hidden change by another mtime', t => {
  const files = new FileMemories(MARGIN_MS)
  files.opened(FILE, 7, 2, 'none', timeOf(100, 40), false)
  let off = 0
  // Whatever 32 bits say of the time.
  for (const at of [NOW_MS, NOW_MS + 2 * MARGIN_MS, -50]) {
    const told = [40 ^ ++off, false]
    t.deepEqual(tell(files, 9, off + 2, at), told)
    t.deepEqual(tell(files, 9, off + 2, at + MARGIN_MS - 1), told)
    t.deepEqual(tell(files, 9, off + 2, at + MARGIN_MS), [40, true])
  }
  // The guest may have passed over the first.
  t.deepEqual(tell(files, 9, 24, NOW_MS), [40 ^ 4, false])
  t.deepEqual(tell(files, 11, 26, NOW_MS + 200), [40 ^ 5, false])
  t.deepEqual(tell(files, 13, 28, NOW_MS + 400), [40 ^ 6, false])
  t.deepEqual(tell(files, 13, 28, NOW_MS + 649), [40 ^ 6, false])
  // However many there are, it is a number of nanoseconds.
  const latest = attributesOf(100, 999_999_999)
  files.reported(FILE, 21, 16, 'none', latest, false, false, NOW_MS)
  for (let i = 0; i < 600; i++) {
    const attr = attributesOf(100, 999_999_999)
    t.true(files.reported(FILE, 23 + 2 * i, 17 + i, 'none', attr, false, false, NOW_MS))
    t.true(attr.mtimeNsec < 1e9 && attr.mtimeNsec !== 999_999_999)
  }
})

test('an mtime that tells by itself, and is set back while that reply is under way, is told otherwise', t => {
  const files = new FileMemories(MARGIN_MS)
  files.opened(FILE, 7, 2, 'none', timeOf(100, 40), false)
  t.deepEqual(tell(files, 7, 2, NOW_MS), [40, true])
  const later = attributesOf(100, 60)
  t.false(files.reported(FILE, 9, 4, 'none', later, false, false, NOW_MS))
  t.is(later.mtimeNsec, 60)
  // No change of data, and what the guest had before.
  for (const at of [1, MARGIN_MS]) t.deepEqual(tell(files, 11, 4, NOW_MS + at), [41, false])
  t.deepEqual(tell(files, 11, 4, NOW_MS + 1 + MARGIN_MS), [40, true])
  // Later ones go on as they are.
  for (const nsec of [70, 80]) {
    const next = attributesOf(100, nsec)
    const version = nsec
    t.false(files.reported(FILE, version, version, 'none', next, false, false, NOW_MS + 300))
    t.is(next.mtimeNsec, nsec)
  }
})

test('after a SETATTR of the guest itself what it may have passed over shows by the next reply', t => {
  for (const nsec of [40, 60]) {
    const files = new FileMemories(MARGIN_MS)
    files.opened(FILE, 7, 2, 'none', timeOf(100, 40), false)
    t.deepEqual(tell(files, 7, 2, NOW_MS), [40, true])
    // Hidden, or not.
    const told = attributesOf(100, nsec)
    t.is(files.reported(FILE, 9, 4, 'none', told, false, false, NOW_MS), nsec === 40)
    const answer = attributesOf(100, nsec)
    t.true(files.reported(FILE, 9, 4, 'none', answer, true, false, NOW_MS))
    t.not(answer.mtimeNsec, nsec)
    for (let i = 0; i < 2; i++) {
      const next = attributesOf(100, nsec)
      t.false(files.reported(FILE, 9, 4, 'none', next, false, false, NOW_MS))
      t.is(next.mtimeNsec, nsec)
    }
  }
})

test('a write of others in a later tick shows by itself', t => {
  const files = new FileMemories(MARGIN_MS)
  files.opened(FILE, 7, 2, 'none', timeOf(100, 40), false)
  const attr = attributesOf(100, 50)
  t.false(files.reported(FILE, 9, 4, 'none', attr, false, false, NOW_MS))
  t.is(attr.mtimeNsec, 50)
})

test('where nothing is known of the time at which it was opened, a change is told', t => {
  const files = new FileMemories(MARGIN_MS)
  files.opened(FILE, 7, 2, 'none', undefined, false)
  const attr = attributesOf(100, 50)
  t.true(files.reported(FILE, 9, 4, 'none', attr, false, false, NOW_MS))
  t.is(attr.mtimeNsec, 51)
})

test('a SETATTR of the guest itself does not hide what others have written', t => {
  const files = new FileMemories(MARGIN_MS)
  files.opened(FILE, 7, 2, 'none', timeOf(100, 40), true)
  t.false(files.reported(FILE, 7, 2, 'none', attributesOf(100, 40), false, false, NOW_MS))
  // Linux takes the mtime of its answer without dropping its pages: so the true one must be another.
  const answer = attributesOf(100, 50)
  t.true(files.reported(FILE, 9, 4, 'none', answer, true, false, NOW_MS))
  t.is(answer.mtimeNsec, 51)
  files.changedByGuest(FILE, 9, 11, 0)
  for (let i = 0; i < 2; i++) {
    const next = attributesOf(100, 50)
    t.false(files.reported(FILE, 11, 4, 'none', next, false, false, NOW_MS))
    t.is(next.mtimeNsec, 50)
  }
  // Without a write of others there is nothing to tell.
  t.false(files.reported(FILE, 11, 4, 'none', attributesOf(100, 50), true, false, NOW_MS))
  files.changedByGuest(FILE, 11, 13, 0)
  t.false(files.reported(FILE, 13, 4, 'none', attributesOf(100, 50), false, false, NOW_MS))
})

test('a change that is announced and waits is none yet', t => {
  const files = new FileMemories(MARGIN_MS)
  files.opened(FILE, 7, 2, 'none', timeOf(100, 40), true)
  t.false(files.reported(FILE, 7, 2, 'none', attributesOf(100, 40), false, true, NOW_MS))
  const waiting = attributesOf(100, 40)
  t.false(files.reported(FILE, 9, 3, 'none', waiting, false, true, NOW_MS))
  t.is(waiting.mtimeNsec, 40)
  // It is made, and mtime set back.
  const hidden = attributesOf(100, 40)
  hidden.ctimeSec = 200
  t.true(files.reported(FILE, 11, 4, 'none', hidden, false, true, NOW_MS))
  t.is(hidden.mtimeNsec, 41)
})

test('the same change time says nothing where it was new, or has no fractions, or others store unseen', t => {
  for (const [nsec, settled, unseen] of [
    [40, false, false],
    [0, true, false],
    [40, true, true],
  ] as const) {
    const files = new FileMemories(MARGIN_MS)
    files.opened(FILE, 7, 2, 'none', timeOf(100, nsec), true)
    files.reported(FILE, 7, 2, 'none', attributesOf(100, nsec), false, settled, NOW_MS)
    if (unseen) files.unseen(FILE)
    t.true(files.reported(FILE, 9, 4, 'none', attributesOf(100, nsec), false, true, NOW_MS))
  }
})

test('pages are kept over an open only if the change time was settled at both', t => {
  const files = new FileMemories(MARGIN_MS)
  const at = timeOf(100, 40)
  t.is(files.opened(FILE, 7, 2, 'none', at, false), 'unknown')
  t.is(files.opened(FILE, 7, 2, 'none', at, true), 'unknown')
  t.is(files.opened(FILE, 7, 2, 'none', at, true), 'same')
  t.is(files.opened(FILE, 7, 2, 'none', at, false), 'unknown')
  t.is(files.opened(FILE, 9, 4, 'none', at, true), 'data')
})

test('what is told while others change it tells nothing of what they write after that', t => {
  for (const knows of [true, false]) {
    const files = new FileMemories(MARGIN_MS)
    const at = timeOf(100, 40)
    files.opened(FILE, 7, 2, 'none', at, true)
    files.reported(FILE, 7, 2, 'none', attributesOf(100, 30), false, true, NOW_MS)
    // Under way, and that for long; or its version was not known any more.
    const version = knows ? 9 : 0
    t.false(
      files.reported(
        FILE,
        version,
        3,
        knows ? 'one' : 'none',
        attributesOf(100, 40),
        false,
        true,
        NOW_MS,
      ),
    )
    // Made.
    t.true(files.reported(FILE, 11, 4, 'none', attributesOf(100, 40), false, true, NOW_MS))
  }
})

test('a change that ended without being counted, as its daemon died, is told, and so it is after an open', t => {
  for (const opens of [true, false]) {
    const files = new FileMemories(MARGIN_MS)
    const at = timeOf(100, 40)
    files.opened(FILE, 7, 2, 'none', at, true)
    const attr = attributesOf(100, 40)
    t.false(files.reported(FILE, 7, 2, 'none', attr, false, true, NOW_MS))
    if (opens) files.opened(FILE, 9, 3, 'one', at, true)
    else files.reported(FILE, 9, 3, 'one', attr, false, true, NOW_MS)
    t.true(files.reported(FILE, 9, 3, 'none', attr, false, true, NOW_MS))
    if (opens) t.is(files.opened(FILE, 9, 3, 'none', at, true), 'unknown')
  }
  // One that is still under way is not, nor what was no change of data, nor where nobody says when it ended.
  const files = new FileMemories(MARGIN_MS)
  files.opened(FILE, 7, 2, 'none', timeOf(100, 40), true)
  files.reported(FILE, 7, 2, 'none', attributesOf(100, 40), false, true, NOW_MS)
  files.reported(FILE, 9, 2, 'one', attributesOf(100, 40), false, true, NOW_MS)
  t.false(files.reported(FILE, 9, 2, 'one', attributesOf(100, 40), false, true, NOW_MS))
  t.false(files.reported(FILE, 11, 2, 'none', attributesOf(100, 40), false, true, NOW_MS))
  t.false(files.reported(FILE, 11, 2, 'several', attributesOf(100, 40), false, true, NOW_MS))
  t.false(files.reported(FILE, 11, 2, 'none', attributesOf(100, 40), false, true, NOW_MS))
})

test('what is no change of data is not told, however much else has changed', t => {
  const files = new FileMemories(MARGIN_MS)
  files.opened(FILE, 7, 2, 'none', timeOf(100, 40), true)
  files.reported(FILE, 7, 2, 'none', attributesOf(100, 40), false, true, NOW_MS)
  const attr = attributesOf(100, 40)
  attr.ctimeSec++
  t.false(files.reported(FILE, 7 + 100_000, 2, 'none', attr, false, true, NOW_MS))
})
