/** What a file has, for tests that change it at random and compare windows with it. */
import { type DaxRig, RANGE } from './rig.js'

export class FileModel {
  bytes: Buffer

  constructor(bytes: Buffer = Buffer.alloc(0)) {
    this.bytes = bytes
  }

  get length(): number {
    return this.bytes.length
  }

  resize(size: number): void {
    const next = Buffer.alloc(size)
    this.bytes.copy(next, 0, 0, size)
    this.bytes = next
  }

  /** At or past the end the file gets longer. */
  write(at: number, data: Uint8Array): void {
    if (at + data.length > this.length) this.resize(at + data.length)
    this.bytes.set(data, at)
  }

  append(data: Uint8Array): void {
    this.write(this.length, data)
  }

  /** A guest's store somewhere in the first range that it has mapped, up to the size that it was `told`. */
  store({ vmm, window }: DaxRig, told: number, pick: (below: number) => number): void {
    const [range] = [...window.table.ranges.values()]
    if (range === undefined || told - range.fileOffset < 10) return
    const at = pick(Math.min(told - range.fileOffset, RANGE) - 9)
    const data = Buffer.from('mapped')
    vmm.write(range.offset + at, data)
    this.write(range.fileOffset + at, data)
  }
}
