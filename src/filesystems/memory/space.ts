/** What the file system may use in all, and what is used. */
export class Space {
  readonly maxBytes: number
  readonly maxNodes: number
  bytes = 0
  nodes = 0

  constructor(maxBytes: number, maxNodes: number) {
    this.maxBytes = maxBytes
    this.maxNodes = maxNodes
  }

  get freeBytes(): number {
    return Math.max(this.maxBytes - this.bytes, 0)
  }
  get freeNodes(): number {
    return Math.max(this.maxNodes - this.nodes, 0)
  }
}
