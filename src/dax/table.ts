/** Live mappings: by place in the window, and by file. */

/** What one request of ours mapped, and one takes away. Offsets in the window. */
export interface Piece {
  readonly offset: number
  readonly bytes: number
}

/** A file of which something is mapped. */
export class MappedFile {
  readonly nodeid: number
  /** O_RDWR, ours. */
  readonly fd: number
  readonly ranges = new Set<Range>()
  /** Bytes when it was looked at last. */
  size = 0
  /** Its end as far as the guest may have made it: what is there beyond is by others. */
  reach = 0
  /** What the guest was told last, or has made it: it looks at no byte beyond. */
  told = 0
  /** Of the watcher; -1: none. */
  watch = -1

  constructor(nodeid: number, fd: number) {
    this.nodeid = nodeid
    this.fd = fd
  }
}

/** What one SETUPMAPPING asked for: `bytes` of the file from `fileOffset` on. The first `covered` of them are there. */
export class Range {
  readonly file: MappedFile
  readonly offset: number
  readonly fileOffset: number
  readonly bytes: number
  covered = 0
  /** In order, without gaps, from `offset` to `offset + covered`. */
  readonly pieces: Piece[] = []

  constructor(file: MappedFile, offset: number, fileOffset: number, bytes: number) {
    this.file = file
    this.offset = offset
    this.fileOffset = fileOffset
    this.bytes = bytes
  }
}

export class MappingTable {
  readonly ranges = new Map<number, Range>()
  readonly files = new Map<number, MappedFile>()

  add(range: Range): void {
    this.ranges.set(range.offset, range)
    range.file.ranges.add(range)
  }

  /** True when it was the last one of its file, which is gone then too. */
  remove(range: Range): boolean {
    this.ranges.delete(range.offset)
    range.file.ranges.delete(range)
    if (range.file.ranges.size > 0) return false
    this.files.delete(range.file.nodeid)
    return true
  }

  /** Ranges that share bytes of the window with [offset, offset + bytes). */
  overlapping(offset: number, bytes: number): Range[] {
    const found: Range[] = []
    for (const range of this.ranges.values())
      if (offset < range.offset + range.bytes && range.offset < offset + bytes) found.push(range)
    return found
  }
}
