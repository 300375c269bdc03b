/** What of the window's ranges is mapped, piece by piece: each is a request to the front end, and taken back as it was made. */
import { Errno } from '../../protocol/errno.js'
import { VIRTIO_FS_SHMCAP_ID_CACHE } from '../../protocol/virtio/fs.js'
import type { Outcome } from '../vfs/filesystem.js'
import { type DaxCounters, refuse } from './counters.js'
import type { Range } from './table.js'

/** Who does the mapping: a back-end channel. 0 or -errno, as there. */
export interface Mapper {
  readonly open: boolean
  /** Mappings there may be at once. */
  readonly most: number
  map(shmid: number, fd: number, fdOffset: number, offset: number, bytes: number): number
  unmap(shmid: number, offset: number, bytes: number): number
}

export type DaxLog = (level: 'warn' | 'debug', message: string) => void

export class Pieces {
  mapper: Mapper | undefined
  readonly #counters: DaxCounters
  readonly #log: DaxLog
  /** Live ones, of all ranges. */
  #live = 0

  constructor(counters: DaxCounters, log: DaxLog) {
    this.#counters = counters
    this.#log = log
  }

  /** Maps another piece, so that the first `target` bytes of `range` are covered. Errors: EIO. */
  map(range: Range, target: number): Outcome {
    const { mapper } = this
    if (mapper !== undefined && this.#live >= mapper.most)
      return refuse(this.#counters, 'full', -Errno.EIO)
    const offset = range.offset + range.covered
    const bytes = target - range.covered
    const from = range.fileOffset + range.covered
    const { fd } = range.file
    const start = performance.now()
    let outcome = mapper?.map(VIRTIO_FS_SHMCAP_ID_CACHE, fd, from, offset, bytes) ?? -Errno.EPIPE
    if (outcome === -Errno.EIO && mapper !== undefined) {
      // Something we do not know of may be there: of a guest before, or of a request that was not waited for.
      if (mapper.unmap(VIRTIO_FS_SHMCAP_ID_CACHE, offset, bytes) >= 0)
        outcome = mapper.map(VIRTIO_FS_SHMCAP_ID_CACHE, fd, from, offset, bytes)
    }
    if (outcome < 0 && outcome !== -Errno.EAGAIN) {
      this.#log('debug', `the front end does not map ${bytes} bytes at ${offset} (${outcome})`)
      return refuse(this.#counters, 'front-end', -Errno.EIO)
    }
    // Not waited for to its end: it is taken for mapped, so that it will be unmapped.
    range.pieces.push({ offset, bytes })
    this.#live++
    range.covered = target
    if (outcome < 0) return refuse(this.#counters, 'front-end', -Errno.EIO)
    this.#counters.maps++
    this.#counters.mapUs += Math.round((performance.now() - start) * 1000)
    return 0
  }

  /**
   * Takes away what of `range` is past its first `keep` bytes; of the piece in which that is, all. False: the front end
   * has not confirmed that.
   */
  cut(range: Range, keep: number): boolean {
    let confirmed = true
    while (range.covered > keep) {
      const piece = range.pieces.pop()!
      this.#live--
      range.covered = piece.offset - range.offset
      const start = performance.now()
      const outcome =
        this.mapper?.unmap(VIRTIO_FS_SHMCAP_ID_CACHE, piece.offset, piece.bytes) ?? -Errno.EPIPE
      if (outcome >= 0) {
        this.#counters.unmaps++
        this.#counters.unmapUs += Math.round((performance.now() - start) * 1000)
      } else {
        confirmed = false
        this.#log(
          'debug',
          `the front end does not unmap ${piece.bytes} bytes at ${piece.offset} (${outcome})`,
        )
      }
    }
    return confirmed
  }

  /** The front end has nothing of it any more. */
  drop(range: Range): void {
    this.#live -= range.pieces.length
    range.pieces.length = 0
    range.covered = 0
  }
}
