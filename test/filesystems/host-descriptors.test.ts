/** The host changes between a lookup and the use of what was found: ESTALE and a right lookup, never another file. */
import { execFileSync } from 'node:child_process'
import {
  closeSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import type { InodeFileHandles } from '../../src/filesystems/host/options.js'
import { mayOpenByHandle, MODES, share } from './host-share.js'

const ENOENT = -2
const ENOTEMPTY = -39
const ESTALE = -116
const S_IFMT = 0o170000

/** Reached without a name once the descriptor is given up. */
const withHandles = (mode: InodeFileHandles): boolean => mode !== 'never' && mayOpenByHandle()

for (const mode of MODES) {
  const title = (what: string): string => `file handles ${mode}: ${what}`

  test(title('replaced before its first use'), t => {
    const { h, host } = share(t, mode)
    writeFileSync(host('f'), 'old')
    writeFileSync(host('g'), 'new')
    const old = h.lookup(1, 'f')
    renameSync(host('g'), host('f'))
    t.is(h.open(old), ESTALE)
    t.is(h.getattr(old), ESTALE)
    const now = h.lookup(1, 'f')
    t.not(now, old)
    t.is(h.readText(now, h.open(now)), 'new')
    t.is(h.getattr(old), ESTALE)
  })

  test(title('renamed before its first use'), t => {
    const { h, host } = share(t, mode)
    writeFileSync(host('f'), 'same')
    const nodeid = h.lookup(1, 'f')
    renameSync(host('f'), host('g'))
    if (mode === 'mandatory') t.is(h.readText(nodeid, h.open(nodeid)), 'same')
    else t.is(h.open(nodeid), ESTALE)
    t.is(h.lookup(1, 'f'), ENOENT)
    t.is(h.lookup(1, 'g'), nodeid, 'it is the same file')
    t.is(h.readText(nodeid, h.open(nodeid)), 'same')
  })

  test(title('renamed after its descriptor was given up'), t => {
    const { h, host, evict } = share(t, mode)
    writeFileSync(host('f'), 'same')
    const nodeid = h.lookup(1, 'f')
    t.is(h.setattr(nodeid, { setMode: true, mode: 0o600 }), 0)
    evict()
    renameSync(host('f'), host('g'))
    if (withHandles(mode)) t.is(h.readText(nodeid, h.open(nodeid)), 'same')
    else t.is(h.open(nodeid), ESTALE)
    t.is(h.lookup(1, 'g'), nodeid)
    t.is(h.readText(nodeid, h.open(nodeid)), 'same')
  })

  test(title('two files change places'), t => {
    const { h, host, evict } = share(t, mode)
    for (const used of [false, true]) {
      writeFileSync(host('a'), 'a')
      writeFileSync(host('b'), 'b')
      const a = h.lookup(1, 'a')
      const b = h.lookup(1, 'b')
      if (used) {
        for (const nodeid of [a, b]) h.setattr(nodeid, { setMode: true, mode: 0o600 })
        evict()
      }
      renameSync(host('a'), host('c'))
      renameSync(host('b'), host('a'))
      renameSync(host('c'), host('b'))
      for (const [nodeid, content] of [
        [a, 'a'],
        [b, 'b'],
      ] as const) {
        const fh = h.open(nodeid)
        if (fh !== ESTALE) t.is(h.readText(nodeid, fh), content)
        else t.false(used && withHandles(mode))
      }
      t.is(h.lookup(1, 'a'), b)
      t.is(h.lookup(1, 'b'), a)
      t.is(h.readText(a, h.open(a)), 'a')
      t.is(h.readText(b, h.open(b)), 'b')
    }
  })

  test(title('a directory is moved, with known files below'), t => {
    const { h, host, evict } = share(t, mode)
    mkdirSync(host('d'))
    writeFileSync(host('d/f'), 'below')
    const d = h.lookup(1, 'd')
    const f = h.lookup(d, 'f')
    evict()
    renameSync(host('d'), host('e'))
    if (withHandles(mode)) t.is(h.readText(f, h.open(f)), 'below')
    else t.is(h.open(f), ESTALE)
    t.is(h.lookup(1, 'e'), d)
    t.is(h.lookup(d, 'f'), f)
    t.is(h.readText(f, h.open(f)), 'below')
  })

  test(title('a directory is replaced by a link to another'), t => {
    const { h, host, evict } = share(t, mode)
    mkdirSync(host('d'))
    mkdirSync(host('other'))
    writeFileSync(host('d/f'), 'right')
    writeFileSync(host('other/f'), 'wrong')
    const d = h.lookup(1, 'd')
    const f = h.lookup(d, 'f')
    evict()
    rmSync(host('d'), { recursive: true })
    symlinkSync('other', host('d'))
    t.is(h.lookup(d, 'f'), mode === 'never' ? ESTALE : h.lookup(d, 'f'))
    t.is(h.open(f), ESTALE)
    t.is(h.opendir(d), ESTALE)
    t.is(h.stat(h.lookup(1, 'd')).mode & S_IFMT, 0o120000)
  })

  test(title('directories are moved into each other the other way round'), t => {
    const { h, host, evict } = share(t, mode)
    mkdirSync(host('a/b/c'), { recursive: true })
    const a = h.lookup(1, 'a')
    const b = h.lookup(a, 'b')
    const c = h.lookup(b, 'c')
    t.true(h.opendir(b) >= 0)
    renameSync(host('a/b'), host('b'))
    renameSync(host('a'), host('b/a'))
    t.is(h.lookup(b, 'a'), a, 'what was above is below')
    for (let i = 0; i < 3; i++) {
      evict()
      for (const nodeid of [a, b, c]) t.true([0, ESTALE].includes(h.setattr(nodeid, {})))
      t.is(h.lookup(1, 'b'), b)
      t.is(h.lookup(b, 'c'), c)
      t.is(h.lookup(b, 'a'), a)
      evict()
      for (const nodeid of [a, b, c]) t.is(h.setattr(nodeid, {}), 0)
    }
  })

  test(title('a hard link goes, another stays'), t => {
    const { h, host, evict } = share(t, mode)
    writeFileSync(host('f'), 'linked')
    linkSync(host('f'), host('g'))
    const nodeid = h.lookup(1, 'f')
    h.setattr(nodeid, { setMode: true, mode: 0o600 })
    evict()
    unlinkSync(host('f'))
    if (withHandles(mode)) t.is(h.stat(nodeid).nlink, 1)
    else t.is(h.getattr(nodeid), ESTALE)
    t.is(h.lookup(1, 'g'), nodeid)
    t.is(h.readText(nodeid, h.open(nodeid)), 'linked')
    // The guest does the same itself: it never loses sight of the file.
    linkSync(host('g'), host('f'))
    t.is(h.unlink(1, 'g'), 0)
    t.is(h.stat(nodeid).nlink, 1)
    t.is(h.lookup(1, 'f'), nodeid)
    evict()
    t.is(h.readText(nodeid, h.open(nodeid)), 'linked')
  })

  test(title('removed on the host while somebody there has it open'), t => {
    const { h, host, evict } = share(t, mode)
    writeFileSync(host('f'), 'held')
    const nodeid = h.lookup(1, 'f')
    h.setattr(nodeid, { setMode: true, mode: 0o600 })
    evict()
    const held = openSync(host('f'), 'r')
    unlinkSync(host('f'))
    if (withHandles(mode)) {
      t.is(h.stat(nodeid).nlink, 0)
      const fh = h.open(nodeid)
      t.is(h.readText(nodeid, fh), 'held')
      h.release(nodeid, fh)
      evict()
    } else t.is(h.getattr(nodeid), ESTALE)
    closeSync(held)
    t.is(h.getattr(nodeid), ESTALE)
    t.is(h.open(nodeid), ESTALE)
    t.is(h.lookup(1, 'f'), ENOENT)
  })

  test(title('removed while the guest has it open'), t => {
    const { h, host, evict } = share(t, mode)
    for (const byGuest of [false, true]) {
      writeFileSync(host('f'), 'open')
      const nodeid = h.lookup(1, 'f')
      const fh = h.open(nodeid)
      if (byGuest) t.is(h.unlink(1, 'f'), 0)
      else unlinkSync(host('f'))
      evict()
      t.is(h.readText(nodeid, fh), 'open')
      t.is(h.stat(nodeid).nlink, 0)
      t.is(h.setattr(nodeid, { setMode: true, mode: 0o640 }), 0)
      const again = h.open(nodeid)
      t.is(h.readText(nodeid, again), 'open')
      h.release(nodeid, again)
      h.release(nodeid, fh)
      if (byGuest) t.is(h.stat(nodeid).mode & 0o777, 0o640, 'until it is forgotten')
      else t.is(h.getattr(nodeid), ESTALE)
      h.forget(nodeid)
    }
  })

  test(title('an inode number is used again'), t => {
    const { h, host } = share(t, mode)
    writeFileSync(host('f'), 'old')
    const old = h.lookup(1, 'f')
    const number = h.stat(old).inoLow
    let reused = false
    for (let i = 0; i < 50 && !reused; i++) {
      unlinkSync(host('f'))
      writeFileSync(host('f'), 'new')
      const now = h.lookup(1, 'f')
      t.not(now, old)
      reused = h.stat(now).inoLow === number
      t.is(h.getattr(old), ESTALE)
      t.is(h.open(old), ESTALE)
      t.is(h.readText(now, h.open(now)), 'new')
    }
    t.log(reused ? 'the number was used again' : 'no number was used again')
  })

  test(title('a removal that fails leaves the directory where it was'), t => {
    const { h, host, evict, fs } = share(t, mode)
    const before = fs.nodeDescriptorCount
    const nodeids: number[] = []
    for (let i = 0; i < 40; i++) {
      mkdirSync(host(`d${i}`))
      writeFileSync(host(`d${i}/f`), `${i}`)
      nodeids.push(h.lookup(1, `d${i}`))
      t.is(h.rmdir(1, `d${i}`), ENOTEMPTY)
    }
    evict()
    for (const [i, d] of nodeids.entries()) {
      const f = h.lookup(d, 'f')
      const fh = h.open(f)
      t.is(h.readText(f, fh), `${i}`)
      h.release(f, fh)
    }
    t.true(fs.nodeDescriptorCount <= before + 17)
  })

  test(title('two deep directories at once, with hardly a descriptor'), t => {
    const { h, host, evict } = share(t, mode)
    const deepA = join(...Array.from({ length: 30 }, () => 'a'))
    const deepB = join(...Array.from({ length: 30 }, () => 'b'))
    for (const deep of [deepA, deepB]) mkdirSync(host(deep), { recursive: true })
    writeFileSync(host(join(deepA, 'f')), 'far down')
    let a = 1
    let b = 1
    for (let i = 0; i < 30; i++) {
      a = h.lookup(a, 'a')
      b = h.lookup(b, 'b')
    }
    const f = h.lookup(a, 'f')
    evict()
    t.is(h.link(f, b, 'linked'), f)
    evict()
    t.is(h.rename(a, 'f', b, 'moved'), 0)
    evict()
    t.is(h.rename(b, 'moved', a, 'back'), 0)
    t.is(readFileSync(host(join(deepA, 'back')), 'utf8'), 'far down')
    t.is(readFileSync(host(join(deepB, 'linked')), 'utf8'), 'far down')
  })

  test(title('directories deeper than any stack'), t => {
    const { h, host, evict } = share(t, mode)
    const way = [1]
    for (let i = 0; i < 8000; i++) way.push(h.mkdir(way.at(-1)!, 'd'))
    const deepest = way.at(-1)!
    evict()
    t.is(h.setattr(deepest, { setMode: true, mode: 0o700 }), 0)
    evict()
    t.is(h.stat(deepest).mode & 0o777, 0o700)
    // Only the deepest is known by now; all above are held by it.
    for (const nodeid of way.slice(1, -1)) h.forget(nodeid)
    evict()
    t.is(h.stat(deepest).mode & 0o777, 0o700)
    h.forget(deepest)
    t.is(h.getattr(deepest), ESTALE)
    // rmSync cannot name what lies so deep.
    execFileSync('rm', ['-rf', host('d')])
  })
}
