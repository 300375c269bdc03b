import test from 'ava'
import fc from 'fast-check'
import { HandleTable } from '../../src/vfs/handle-table.js'
import { HOSTILE_NUMBERS } from './hostile-numbers.js'

test('a handle is found by its number until it is removed', t => {
  const table = new HandleTable<string>()
  const a = table.insert('a')
  const b = table.insert('b')
  t.deepEqual([table.get(a), table.get(b), table.size], ['a', 'b', 2])
  t.is(table.remove(a), 'a')
  t.is(table.remove(a), undefined)
  t.deepEqual([table.get(a), table.get(b), table.size], [undefined, 'b', 1])
})

test('the number of a closed handle names nothing when its slot is used again', t => {
  const table = new HandleTable<string>()
  const stale = table.insert('old')
  table.remove(stale)
  const fh = table.insert('new')
  t.is(fh % 2 ** 32, stale % 2 ** 32)
  t.is(table.get(stale), undefined)
  t.is(table.remove(stale), undefined)
  t.is(table.get(fh), 'new')
})

test('a slot whose generations are used up is never given out again', t => {
  const table = new HandleTable<number>()
  let fh = 0
  for (let i = 0; i < 2 ** 20; i++) {
    fh = table.insert(i)
    if (i < 2 ** 20 - 1) table.remove(fh)
  }
  t.is(fh, (2 ** 20 - 1) * 2 ** 32)
  table.remove(fh)
  t.is(table.insert(0), 1)
  t.is(table.get(fh), undefined)
})

test('no number a guest can send finds a handle that is not there', t => {
  const table = new HandleTable<number>()
  for (let i = 0; i < 10; i++) table.remove(table.insert(i))
  const fh = table.insert(1)
  for (const number of HOSTILE_NUMBERS) {
    t.is(table.get(number), undefined, String(number))
    t.is(table.remove(number), undefined, String(number))
  }
  t.is(table.get(fh), 1)
})

test('clear takes every handle out, once', t => {
  const table = new HandleTable<number>()
  const numbers = [1, 2, 3].map(handle => table.insert(handle))
  table.remove(numbers[1]!)
  const seen: number[] = []
  table.clear(handle => seen.push(handle))
  t.deepEqual(seen, [1, 3])
  t.is(table.size, 0)
  t.deepEqual([...table], [])
  for (const fh of numbers) t.is(table.get(fh), undefined)
})

test('the table behaves as a map that never uses a key twice', t => {
  const step = fc.oneof(
    { arbitrary: fc.constant({ what: 'insert', pick: 0 }), weight: 3 },
    { arbitrary: fc.record({ what: fc.constant('remove'), pick: fc.nat() }), weight: 3 },
    { arbitrary: fc.constant({ what: 'clear', pick: 0 }), weight: 1 },
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), steps => {
      const table = new HandleTable<{ name: number }>()
      const model = new Map<number, { name: number }>()
      const given: number[] = []
      for (const { what, pick } of steps) {
        if (what === 'insert') {
          const handle = { name: given.length }
          const fh = table.insert(handle)
          if (given.includes(fh)) return false
          given.push(fh)
          model.set(fh, handle)
        } else if (what === 'remove' && given.length > 0) {
          const fh = given[pick % given.length]!
          if (table.remove(fh) !== model.get(fh)) return false
          model.delete(fh)
        } else if (what === 'clear') {
          let seen = 0
          table.clear(() => seen++)
          if (seen !== model.size) return false
          model.clear()
        }
        if (table.size !== model.size || [...table].length !== model.size) return false
        if (given.some(fh => table.get(fh) !== model.get(fh))) return false
      }
      return true
    }),
    { numRuns: 300 },
  )
  t.pass()
})
