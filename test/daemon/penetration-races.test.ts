/**
 * The penetration table, continued: while the guest asks, a process of the host changes what the names mean,
 * so that between a look and a deed they lead outside.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import test, { type ExecutionContext } from 'ava'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { text } from '../helpers/fuse-client.js'
import { besiege, held, Op, VARIANTS } from './penetration-helpers.js'
import { missing } from './sandbox-helpers.js'

/** How long each race goes on. */
const RACE_MS = 1500
/** And, however slow the machine is, until there were so many rounds of the guest and moves of the host. */
const LEAST_ROUNDS = 20
const LEAST_MOVES = 200
const MOST_MS = 60_000

/** What the host does to a name, in `place` of what is there. */
type Move =
  | readonly ['move', from: string, place: string]
  /** A further name of a file, link or pipe. */
  | readonly ['name', from: string, place: string]
  | readonly ['folder', from: undefined, place: string]

/** Moves, one after the other and again from the first, on a thread of its own. */
const TURNER = `
const { linkSync, mkdirSync, renameSync, rmdirSync, rmSync } = require('node:fs')
const { moves, state } = require('node:worker_threads').workerData
const quietly = (work, ...args) => {
  try { work(...args); return 1 } catch { return 0 }
}
while (Atomics.load(state, 0) === 0) {
  for (const [how, from, place] of moves) {
    if (how === 'move') Atomics.add(state, 1, quietly(renameSync, from, place))
    else if (how === 'folder') {
      quietly(rmSync, place)
      Atomics.add(state, 1, quietly(mkdirSync, place))
    } else {
      quietly(rmdirSync, place)
      quietly(linkSync, from, place + '.new')
      Atomics.add(state, 1, quietly(renameSync, place + '.new', place))
    }
  }
}
`

/** Runs `attack` again and again while the host goes through `moves`. */
async function race(
  t: ExecutionContext,
  moves: readonly Move[],
  attack: (round: number) => void,
  met = (): boolean => true,
): Promise<void> {
  const state = new Int32Array(new SharedArrayBuffer(8))
  const worker = new Worker(TURNER, { eval: true, workerData: { moves, state } })
  const ended = new Promise((done, failed) => {
    worker.on('exit', done)
    worker.on('error', failed)
  })
  const start = performance.now()
  const goesOn = (rounds: number): boolean => {
    const ms = performance.now() - start
    const enough = met() && rounds >= LEAST_ROUNDS && Atomics.load(state, 1) >= LEAST_MOVES
    return ms < RACE_MS || (!enough && ms < MOST_MS)
  }
  let rounds = 0
  try {
    while (goesOn(rounds)) {
      attack(rounds)
      rounds++
      if (rounds % 64 === 0) await new Promise(done => setImmediate(done))
    }
  } finally {
    Atomics.store(state, 0, 1)
    await ended
  }
  t.true(rounds >= LEAST_ROUNDS, `only ${rounds} rounds`)
  t.true(state[1]! >= LEAST_MOVES, `only ${state[1]} moves`)
}

for (const variant of VARIANTS) {
  const testHere = missing(variant.mode) === undefined ? test : test.skip

  testHere(`${variant.name}: a directory that is a link to outside now and then`, async t => {
    const siege = await besiege(t, variant)
    const { attacker, client, place } = siege
    const at = (name: string): string => join(place.share, name)
    const moves = [0, 1].flatMap(way => [
      ['move', at('dir'), at('aside')] as const,
      ['move', at(`way-${way}`), at('dir')] as const,
      ['move', at('dir'), at(`way-${way}`)] as const,
      ['move', at('aside'), at('dir')] as const,
    ])
    const held0 = client.lookup(1, 'dir')
    const sub = client.lookup(held0, 'sub')
    const deep = client.lookup(sub, 'deep')
    let entered = 0
    await race(t, moves, round => {
      const dir = attacker.lookup(1, 'dir')
      if (dir > 0) {
        entered++
        attacker.useDirectory(dir)
        attacker.useNode(dir)
        attacker.forget(dir)
      }
      // Nodes from before, whose way leads through the name.
      attacker.useNode(deep)
      attacker.lookup(sub, 'deep')
      attacker.lookup(held0, 'canary')
      // More nodes than may have a descriptor, so that those are opened by their names again.
      if (round % 4 === 0) for (let i = 0; i < 40; i++) attacker.create(held0, `many-${i}`, 0o102)
    })
    t.true(entered > 0)
    held(t, siege)
  })

  testHere(`${variant.name}: a file that is a link, a pipe, a directory now and then`, async t => {
    const siege = await besiege(t, variant)
    const { attacker, place, outside } = siege
    const at = (name: string): string => join(place.share, name)
    symlinkSync('../outside/canary', at('as-link'))
    symlinkSync(join(outside.folder, 'victim'), at('as-absolute'))
    spawnSync('mkfifo', [at('as-pipe')])
    writeFileSync(at('as-file'), 'inside\n')
    const moves: Move[] = ['as-file', 'as-link', 'as-pipe', 'as-absolute'].map(kind => [
      'name',
      at(kind),
      at('it'),
    ])
    moves.push(['folder', undefined, at('it')])
    const O_RDWR_TRUNC = 0o1002
    let opens = 0
    let refusals = 0
    await race(
      t,
      moves,
      () => {
        const it = attacker.lookup(1, 'it')
        if (it > 0) {
          const opened = attacker.ask(Op.OPEN, it, u32s(O_RDWR_TRUNC, 0))
          if (opened.error < 0) refusals++
          else {
            opens++
            attacker.readAndClose(it, opened.body.getBigUint64(0, true))
          }
          attacker.useNode(it)
          attacker.forget(attacker.entry(Op.LINK, 1, concat(u64(BigInt(it)), text('another'))))
          attacker.ask(Op.UNLINK, 1, text('another'))
          attacker.forget(it)
        }
        attacker.forget(attacker.create(1, 'it', O_RDWR_TRUNC | 0o100))
        attacker.ask(Op.RENAME, 1, concat(u64(1n), text('it'), text('it-too')))
        attacker.ask(Op.RENAME, 1, concat(u64(1n), text('it-too'), text('it')))
      },
      () => opens > 0 && refusals > 0,
    )
    t.true(opens > 0 && refusals > 0, `${opens} opened, ${refusals} refused`)
    held(t, siege)
  })

  testHere(`${variant.name}: a directory that moves out of the share and back`, async t => {
    const siege = await besiege(t, variant, place => {
      mkdirSync(join(place.share, 'top', 'a', 'b', 'c'), { recursive: true })
      for (let i = 0; i < 80; i++) mkdirSync(join(place.share, 'dir', `fill-${i}`))
      mkdirSync(join(place.folder, 'elsewhere'))
      for (const name of ['canary', 'victim'])
        writeFileSync(join(place.folder, 'elsewhere', name), '')
    })
    const { attacker, client, place } = siege
    const elsewhere = join(place.folder, 'elsewhere')
    const moves = [
      ['move', join(place.share, 'top', 'a'), join(elsewhere, 'a')],
      ['move', join(elsewhere, 'a'), join(place.share, 'top', 'a')],
    ] as const
    const top = client.lookup(1, 'top')
    const a = client.lookup(top, 'a')
    const b = client.lookup(a, 'b')
    const c = client.lookup(b, 'c')
    const dir = client.lookup(1, 'dir')
    let serial = 0
    await race(t, moves, () => {
      // Up, which must not be; down and across, which may.
      for (const node of [a, b, c])
        for (const up of ['..', '../canary', '../../elsewhere/canary'])
          if (attacker.lookup(node, up) >= 0) t.fail(`${up} was found`)
      const name = `f-${serial++}`
      attacker.forget(attacker.create(c, name, 0o102))
      attacker.ask(Op.RENAME, c, concat(u64(BigInt(b)), text(name), text('moved')))
      attacker.ask(Op.RENAME, b, concat(u64(BigInt(a)), text('moved'), text('higher')))
      attacker.ask(Op.RENAME, a, concat(u64(BigInt(top)), text('higher'), text('highest')))
      attacker.ask(Op.UNLINK, top, text('highest'))
      for (const folder of [a, b, c]) attacker.useDirectory(folder)
      for (let i = 0; i < 8; i++)
        attacker.forget(attacker.lookup(dir, `fill-${(serial * 8 + i) % 80}`))
    })
    t.deepEqual(
      readdirSync(elsewhere)
        .filter(name => name !== 'a')
        .sort(),
      ['canary', 'victim'],
    )
    // Out for good: what lies above it there, or beside it, is not to be had.
    renameSync(join(place.share, 'top', 'a'), join(elsewhere, 'a'))
    for (const node of [a, b, c])
      for (const up of ['..', '../canary']) t.true(attacker.lookup(node, up) < 0)
    t.true(attacker.lookup(top, 'a') < 0)
    t.true(attacker.lookup(a, 'canary') < 0)
    rmSync(elsewhere, { recursive: true })
    held(t, siege)
  })
}
