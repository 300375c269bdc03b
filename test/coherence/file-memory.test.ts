/** What a guest is told of files it has open, so that it drops pages that others have changed. */
import test from 'ava'
import { FileMemories } from '../../src/coherence/file-memory.js'
import { ChangeTime } from '../../src/vfs/identities.js'
import { Attributes } from '../../src/vfs/replies.js'

const FILE = 2

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
  const files = new FileMemories()
  // It knows an mtime from LOOKUP, and was given no lease: the first write was just before.
  files.opened(FILE, 7, 2, timeOf(100, 40), false)
  const attr = attributesOf(100, 40)
  t.true(files.reported(FILE, 9, 4, attr, false, false))
  t.is(attr.mtimeNsec, 41)
  // Once.
  const again = attributesOf(100, 40)
  t.false(files.reported(FILE, 9, 4, again, false, false))
  t.is(again.mtimeNsec, 40)
})

test('a write of others in a later tick shows by itself', t => {
  const files = new FileMemories()
  files.opened(FILE, 7, 2, timeOf(100, 40), false)
  const attr = attributesOf(100, 50)
  t.false(files.reported(FILE, 9, 4, attr, false, false))
  t.is(attr.mtimeNsec, 50)
})

test('where nothing is known of the time at which it was opened, a change is told', t => {
  const files = new FileMemories()
  files.opened(FILE, 7, 2, undefined, false)
  const attr = attributesOf(100, 50)
  t.true(files.reported(FILE, 9, 4, attr, false, false))
  t.is(attr.mtimeNsec, 51)
})

test('a SETATTR of the guest itself does not hide what others have written', t => {
  const files = new FileMemories()
  files.opened(FILE, 7, 2, timeOf(100, 40), true)
  t.false(files.reported(FILE, 7, 2, attributesOf(100, 40), false, false))
  // Linux takes the mtime of its answer without dropping its pages: so the true one must be another.
  const answer = attributesOf(100, 50)
  t.true(files.reported(FILE, 9, 4, answer, true, false))
  t.is(answer.mtimeNsec, 51)
  files.changedByGuest(FILE, 9, 11, 0)
  for (let i = 0; i < 2; i++) {
    const next = attributesOf(100, 50)
    t.false(files.reported(FILE, 11, 4, next, false, false))
    t.is(next.mtimeNsec, 50)
  }
  // Without a write of others there is nothing to tell.
  t.false(files.reported(FILE, 11, 4, attributesOf(100, 50), true, false))
  files.changedByGuest(FILE, 11, 13, 0)
  t.false(files.reported(FILE, 13, 4, attributesOf(100, 50), false, false))
})

test('a change that is announced and waits is none yet', t => {
  const files = new FileMemories()
  files.opened(FILE, 7, 2, timeOf(100, 40), true)
  t.false(files.reported(FILE, 7, 2, attributesOf(100, 40), false, true))
  const waiting = attributesOf(100, 40)
  t.false(files.reported(FILE, 9, 3, waiting, false, true))
  t.is(waiting.mtimeNsec, 40)
  // It is made, and mtime set back.
  const hidden = attributesOf(100, 40)
  hidden.ctimeSec = 200
  t.true(files.reported(FILE, 11, 4, hidden, false, true))
  t.is(hidden.mtimeNsec, 41)
})

test('the same change time says nothing where it was new, or has no fractions, or others store unseen', t => {
  for (const [nsec, settled, unseen] of [
    [40, false, false],
    [0, true, false],
    [40, true, true],
  ] as const) {
    const files = new FileMemories()
    files.opened(FILE, 7, 2, timeOf(100, nsec), true)
    files.reported(FILE, 7, 2, attributesOf(100, nsec), false, settled)
    if (unseen) files.unseen(FILE)
    t.true(files.reported(FILE, 9, 4, attributesOf(100, nsec), false, true))
  }
})

test('pages are kept over an open only if the change time was settled at both', t => {
  const files = new FileMemories()
  const at = timeOf(100, 40)
  t.is(files.opened(FILE, 7, 2, at, false), 'unknown')
  t.is(files.opened(FILE, 7, 2, at, true), 'unknown')
  t.is(files.opened(FILE, 7, 2, at, true), 'same')
  t.is(files.opened(FILE, 7, 2, at, false), 'unknown')
  t.is(files.opened(FILE, 9, 4, at, true), 'data')
})
