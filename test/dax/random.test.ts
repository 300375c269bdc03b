/** Random mappings, writes and truncations: the window shows what the files have, at every step. */
import { readdirSync } from 'node:fs'
import test from 'ava'
import { random } from '../helpers/random.js'
import { FileModel } from './model.js'
import { daxRig, MIB, RANGE } from './rig.js'

const STEPS = Number(process.env.DAX_STEPS ?? 600)
const SLOTS = 6
const FILES = 4
const MOST = 5 * MIB

for (const backEnd of ['host', 'memory'] as const)
  for (const seed of [1, 2, 3])
    test(`${backEnd}: ${STEPS} random steps, seed ${seed}`, t => {
      const r = daxRig(t, {
        backEnd,
        regions: seed === 2,
        dax: { windowBytes: 16 * MIB, policy: backEnd === 'memory' ? 'sealed' : 'always' },
      })
      const pick = random(seed)
      const files = Array.from({ length: FILES }, (_, i) => ({
        ...r.guest.create(1, `f${i}`),
        model: new FileModel(),
      }))
      const slots: ({ file: number; foffset: number } | undefined)[] = Array(SLOTS).fill(undefined)
      const check = (slot: number): void => {
        const at = slots[slot]
        if (at === undefined) return
        const want = files[at.file]!.model.bytes.subarray(at.foffset, at.foffset + RANGE)
        const got = r.vmm.read(slot * RANGE, want.length)
        if (!got.equals(want)) {
          const first = got.findIndex((byte, i) => byte !== want[i])
          t.fail(
            `slot ${slot}, file ${at.file} at ${at.foffset + first}: ${got[first]}, not ${want[first]}`,
          )
        }
      }
      for (let step = 0; step < STEPS; step++) {
        const index = pick(FILES)
        const file = files[index]!
        const slot = pick(SLOTS)
        switch (pick(6)) {
          case 0: {
            const foffset = pick(3) * RANGE
            const errno = r.setup(file.nodeid, slot * RANGE, foffset)
            const is = file.model.length > foffset
            if (is !== (errno === 0))
              t.fail(
                `step ${step}: setup of ${file.model.length} at ${foffset}: ${errno} ${r.window.summary()} ${r.vmm.faults} ${r.log}`,
              )
            slots[slot] = is ? { file: index, foffset } : undefined
            break
          }
          case 1:
            r.remove([slot * RANGE, RANGE])
            slots[slot] = undefined
            break
          case 2: {
            const size = pick(4) === 0 ? 0 : pick(MOST)
            t.is(r.truncate(file.nodeid, size), 0)
            file.model.resize(size)
            break
          }
          case 3: {
            // A store of the guest, inside the file.
            const at = slots[slot]
            if (at === undefined) break
            const { model } = files[at.file]!
            const room = Math.min(RANGE, model.length - at.foffset)
            if (room <= 0) break
            const from = pick(room)
            const data = Buffer.alloc(
              Math.min(room - from, 1 + pick(3000), 4096 - (from % 4096)),
              step,
            )
            r.vmm.write(slot * RANGE + from, data)
            model.write(at.foffset + from, data)
            break
          }
          default: {
            const at =
              pick(2) === 0 ? file.model.length : pick(Math.min(MOST, file.model.length + 9000))
            const data = Buffer.alloc(1 + pick(20_000), step + 1)
            if (at + data.length > MOST) break
            file.model.write(at, data)
            t.is(r.guest.write(file.nodeid, file.fh, at, data), data.length)
          }
        }
        if (step % 8 === 0) for (let i = 0; i < SLOTS; i++) check(i)
        else check(slot)
      }
      for (const file of files) t.is(r.getattr(file.nodeid).size, file.model.length)
      t.deepEqual(r.vmm.faults, [])
      t.is(
        r.vmm.mappings.size,
        [...r.window.table.ranges.values()].reduce((n, one) => n + one.pieces.length, 0),
      )
      if (backEnd === 'host') t.is(readdirSync(r.folder).length, FILES)
    })
