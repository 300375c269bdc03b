/** What a DAX window did, and what it refused. */

export interface DaxCounters {
  /** SETUPMAPPING: all, those that found it there already, those that took another's place. */
  setups: number
  hits: number
  replaced: number
  removes: number
  /** Requests to the front end that went well. */
  maps: number
  unmaps: number
  /** Microseconds of waiting for the front end to do these. */
  mapUs: number
  unmapUs: number
  /** Made longer for the moment of mapping; of these, while somebody else changed the size. */
  padded: number
  disturbed: number
  /** Pieces behind earlier ones, since the file grew. */
  grown: number
  /** Mappings cut as the file was made shorter: by the guest, by others. */
  shrunk: number
  shrunkByOthers: number
  /** Files of which something was unmapped because a guest of another daemon wanted to cut them. */
  revoked: number
  /** SETUPMAPPING refused, by reason. */
  readonly refused: Record<Refusal, number>
}
export type Refusal =
  | 'hostile'
  | 'stale'
  | 'policy'
  | 'size'
  | 'open'
  | 'busy'
  | 'full'
  | 'others'
  | 'front-end'

export function newCounters(): DaxCounters {
  return {
    setups: 0,
    hits: 0,
    replaced: 0,
    removes: 0,
    maps: 0,
    unmaps: 0,
    mapUs: 0,
    unmapUs: 0,
    padded: 0,
    disturbed: 0,
    grown: 0,
    shrunk: 0,
    shrunkByOthers: 0,
    revoked: 0,
    refused: {
      hostile: 0,
      stale: 0,
      policy: 0,
      size: 0,
      open: 0,
      busy: 0,
      full: 0,
      others: 0,
      'front-end': 0,
    },
  }
}

/** Counts a refusal and passes on its outcome. */
export function refuse(counters: DaxCounters, why: Refusal, outcome: number): number {
  counters.refused[why]++
  return outcome
}
