import test from 'ava'
import fc from 'fast-check'
import { ROOT_NODEID } from '../../src/vfs/filesystem.js'
import { type NodeBase, NodeTable } from '../../src/vfs/node-table.js'
import { HOSTILE_NUMBERS } from './hostile-numbers.js'

class Node implements NodeBase {
  nodeid = 0
  lookups = 0
  holds = 0
  readonly name: number
  constructor(name: number) {
    this.name = name
  }
}

function withRoot(): { table: NodeTable<Node>; root: Node } {
  const table = new NodeTable<Node>()
  const root = new Node(0)
  table.setRoot(root)
  return { table, root }
}

/** A node the guest knows by one lookup and nothing else. */
function known(table: NodeTable<Node>, name = 1): Node {
  const node = new Node(name)
  table.insert(node)
  table.addLookup(node)
  table.unhold(node)
  return node
}

test('the root has nodeid 1 and survives every forget', t => {
  const { table, root } = withRoot()
  t.is(root.nodeid, ROOT_NODEID)
  for (const nlookup of [0, 1, 2 ** 32, Infinity]) t.false(table.forget(root, nlookup))
  table.forgetAll(() => t.fail('the root went'))
  t.is(table.get(1), root)
})

test('a node without lookups is not found, and keeps its nodeid while it is held', t => {
  const { table } = withRoot()
  const node = new Node(1)
  const nodeid = table.insert(node)
  t.is(table.get(nodeid), undefined)
  table.addLookup(node)
  t.is(table.get(nodeid), node)
  t.false(table.forget(node, 1), 'it is held')
  t.is(table.get(nodeid), undefined)
  t.is(table.size, 2)
  table.addLookup(node)
  t.is(table.get(nodeid), node, 'the same nodeid after another lookup')
  t.false(table.unhold(node))
  t.true(table.forget(node, 1))
  t.is(table.size, 1)
})

test('forgetting more lookups than there are counts as all of them', t => {
  const { table } = withRoot()
  for (const nlookup of [2, 2 ** 53, 2 ** 64, Infinity, Number.NaN])
    t.true(table.forget(known(table), nlookup))
  t.is(table.size, 1)
})

test('a nodeid whose slot was taken over names nothing', t => {
  const { table } = withRoot()
  const first = known(table, 1)
  const stale = first.nodeid
  table.forget(first, 1)
  const second = known(table, 2)
  t.is(second.nodeid % 2 ** 32, stale % 2 ** 32, 'the slot is used again')
  t.is(table.get(stale), undefined)
  t.is(table.get(second.nodeid), second)
})

test('a slot whose generations are used up is never given out again', t => {
  const { table } = withRoot()
  const slot = known(table).nodeid
  let last = slot
  for (let generation = 1; generation < 2 ** 20; generation++) {
    table.forget(table.get(last)!, 1)
    last = known(table).nodeid
  }
  t.is(last, slot + (2 ** 20 - 1) * 2 ** 32)
  t.true(Number.isSafeInteger(last))
  table.forget(table.get(last)!, 1)
  const next = known(table).nodeid
  t.is(next, slot + 1, 'a new slot')
  t.is(table.get(last), undefined)
  t.is(table.get(slot), undefined)
})

test('no number a guest can send finds a node that is not there', t => {
  const { table, root } = withRoot()
  for (let i = 0; i < 100; i++) known(table, i)
  for (const number of HOSTILE_NUMBERS)
    t.is(table.get(number), number === 1 ? root : undefined, String(number))
})

test('forgetAll reports nodes that go by it, also those kept by a child until then', t => {
  const { table } = withRoot()
  const parent = known(table, 1)
  const child = known(table, 2)
  table.hold(parent)
  const kept = known(table, 3)
  table.hold(kept)
  const gone: number[] = []
  table.forgetAll(node => {
    gone.push(node.name)
    if (node === child && table.unhold(parent)) gone.push(parent.name)
  })
  t.deepEqual(gone, [2, 1])
  t.deepEqual(
    [...table].map(node => node.name),
    [0, 3],
  )
})

// --- against a model --------------------------------------------------------------------------------

interface Known {
  node: Node
  lookups: number
  holds: number
}
interface Model {
  /** Every nodeid ever given out. */
  given: Set<number>
  live: Map<number, Known>
}
type Command = fc.Command<Model, NodeTable<Node>>

function check(model: Model, table: NodeTable<Node>): void {
  for (const nodeid of model.given) {
    const expected = model.live.get(nodeid)
    const found = table.get(nodeid)
    if (found !== (expected !== undefined && expected.lookups > 0 ? expected.node : undefined))
      throw new Error(`get(${nodeid}) finds ${found?.nodeid}`)
  }
  if (table.size !== model.live.size + 1) throw new Error(`size ${table.size}`)
  const all = [...table].filter(node => node.nodeid !== ROOT_NODEID)
  if (
    all.length !== model.live.size ||
    all.some(node => model.live.get(node.nodeid)?.node !== node)
  )
    throw new Error('iteration')
}

/** Applies `step` to the pick-th live node; the node goes when the model says so. */
class OnNode implements Command {
  readonly name: string
  readonly pick: number
  readonly step: (table: NodeTable<Node>, known: Known) => boolean
  constructor(name: string, pick: number, step: OnNode['step']) {
    this.name = name
    this.pick = pick
    this.step = step
  }
  check(model: Readonly<Model>): boolean {
    return model.live.size > 0
  }
  run(model: Model, table: NodeTable<Node>): void {
    const entry = [...model.live.values()][this.pick % model.live.size]!
    const went = this.step(table, entry)
    if (went !== (entry.lookups === 0 && entry.holds === 0)) throw new Error('it went, or did not')
    if (went) model.live.delete(entry.node.nodeid)
    check(model, table)
  }
  toString(): string {
    return `${this.name}(${this.pick})`
  }
}

class Insert implements Command {
  check(): boolean {
    return true
  }
  run(model: Model, table: NodeTable<Node>): void {
    const node = new Node(model.given.size + 1)
    const nodeid = table.insert(node)
    if (model.given.has(nodeid)) throw new Error(`${nodeid} was given out before`)
    model.given.add(nodeid)
    model.live.set(nodeid, { node, lookups: 0, holds: 1 })
    check(model, table)
  }
  toString(): string {
    return 'insert'
  }
}

class ForgetAll implements Command {
  check(): boolean {
    return true
  }
  run(model: Model, table: NodeTable<Node>): void {
    const gone = new Set<Node>()
    table.forgetAll(node => gone.add(node))
    for (const [nodeid, entry] of [...model.live]) {
      if (gone.has(entry.node) !== (entry.holds === 0))
        throw new Error(`${nodeid} went, or did not`)
      entry.lookups = 0
      if (entry.holds === 0) model.live.delete(nodeid)
    }
    check(model, table)
  }
  toString(): string {
    return 'forgetAll'
  }
}

test('the table behaves as a map of counted nodes', t => {
  const pick = fc.nat(20)
  const commands = [
    fc.constant(new Insert()),
    fc.constant(new ForgetAll()),
    pick.map(
      p =>
        new OnNode('lookup', p, (table, known) => {
          known.lookups++
          table.addLookup(known.node)
          return false
        }),
    ),
    pick.map(
      p =>
        new OnNode('hold', p, (table, known) => {
          known.holds++
          table.hold(known.node)
          return false
        }),
    ),
    pick.map(
      p =>
        new OnNode('unhold', p, (table, known) => {
          if (known.holds === 0) return false
          known.holds--
          return table.unhold(known.node)
        }),
    ),
    fc.tuple(pick, fc.nat(3)).map(
      ([p, nlookup]) =>
        new OnNode(`forget ${nlookup} of`, p, (table, known) => {
          known.lookups = Math.max(0, known.lookups - nlookup)
          return table.forget(known.node, nlookup)
        }),
    ),
  ]
  fc.assert(
    fc.property(fc.commands(commands, { maxCommands: 200 }), cmds => {
      const { table } = withRoot()
      fc.modelRun(
        () => ({
          model: { given: new Set<number>(), live: new Map<number, Known>() },
          real: table,
        }),
        cmds,
      )
    }),
    { numRuns: 300 },
  )
  t.pass()
})
