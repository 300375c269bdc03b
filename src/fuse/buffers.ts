/** The guest's buffers of one request, as ranges of the context's segment list. */
export interface Buffers {
  readonly readFirst: number
  readonly readCount: number
  readonly readBytes: number
  readonly writeFirst: number
  readonly writeCount: number
  readonly writeBytes: number
}
