/**
 * The records of a migrated state and what each field may be: HEAD first, then NODEs, then HANDLEs, then
 * END with their counts. Source: this file; the version goes up with every change of meaning.
 */
import { S_IFMT, S_IFDIR } from '../../protocol/linux/constants.js'
import type { HandleState, NodeState, SessionState, TreeState } from '../vfs/migration.js'
import type { Field, Record } from './frames.js'
import {
  MAX_GENERATION,
  MAX_HANDLE_BYTES,
  MAX_HANDLE_SLOT,
  MAX_LOOKUPS,
  MAX_NAME_BYTES,
  MAX_NODE_SLOT,
  MAX_PATH_BYTES,
  MigrationError,
} from './limits.js'

export const STATE_VERSION = 1
export const Kind = { head: 0, node: 1, handle: 2, end: 3 } as const

const TWO32 = 0x1_0000_0000
const MAX_U32 = 0xffff_ffff
const ROOT_NODEID = 1
/** S_IFMT bits of every kind of file: FIFO, character, directory, block, regular, link, socket. */
const TYPES: readonly number[] = [
  0o010000,
  0o020000,
  S_IFDIR,
  0o060000,
  0o100000,
  0o120000,
  0o140000,
]
const MODES = ['find-paths', 'file-handles'] as const

/** Reads the fields of a record in order; every complaint names the record. */
class Fields {
  readonly #record: Record
  readonly #what: string
  #at = 1

  constructor(record: Record, what: string, count: number) {
    this.#record = record
    this.#what = what
    if (record.length !== count + 1) this.fail(`${record.length - 1} fields instead of ${count}`)
  }

  fail(why: string): never {
    throw new MigrationError(`the state is broken: ${this.#what}: ${why}`)
  }

  #next(): Field {
    return this.#record[this.#at++]!
  }

  number(name: string, least: number, most: number): number {
    const value = this.#next()
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < least || value > most)
      this.fail(`${name} is not a number from ${least} to ${most}`)
    return value
  }

  bytes(name: string, most: number): string {
    const value = this.#next()
    if (typeof value !== 'string' || value.length > most)
      this.fail(`${name} is not a string of at most ${most} bytes`)
    return value
  }

  /** A nodeid or fh: slot below `slots`, generation above it. */
  id(name: string, slots: number): number {
    const value = this.number(name, 0, Number.MAX_SAFE_INTEGER)
    if (value % TWO32 >= slots || Math.floor(value / TWO32) > MAX_GENERATION)
      this.fail(`${name} ${value} is out of range`)
    return value
  }
}

export interface Head {
  readonly session: SessionState
  readonly tree: TreeState
}

export function encodeHead({ session, tree }: Head): Record {
  return [
    Kind.head,
    STATE_VERSION,
    session.initialised ? 1 : 0,
    session.minor,
    session.flags,
    session.flags2,
    session.maxReadahead,
    session.maxPages,
    MODES.indexOf(tree.mode),
    tree.rootHandle,
    tree.nodeGeneration,
    tree.handleGeneration,
  ]
}

export function decodeHead(record: Record): Head {
  const version = record[1]
  if (version !== STATE_VERSION)
    throw new MigrationError(
      `the state has version ${typeof version === 'number' ? version : '?'}, this daemon takes ${STATE_VERSION}: use the same version of virtiofsd on both sides`,
    )
  const fields = new Fields(record, 'its head', 11)
  fields.number('version', 0, MAX_U32)
  const session: SessionState = {
    initialised: fields.number('initialised', 0, 1) === 1,
    minor: fields.number('minor', 0, 1000),
    flags: fields.number('flags', 0, MAX_U32),
    flags2: fields.number('flags2', 0, MAX_U32),
    maxReadahead: fields.number('max_readahead', 0, MAX_U32),
    maxPages: fields.number('max_pages', 1, 0xffff),
  }
  const tree: TreeState = {
    mode: MODES[fields.number('mode', 0, MODES.length - 1)]!,
    rootHandle: handle(fields, fields.bytes('the root', MAX_HANDLE_BYTES)),
    nodeGeneration: fields.number('generation', 0, MAX_GENERATION + 1),
    handleGeneration: fields.number('generation', 0, MAX_GENERATION + 1),
  }
  return { session, tree }
}

export function encodeNode(node: NodeState): Record {
  return [
    Kind.node,
    node.nodeid,
    node.lookups,
    node.type / 0o10000,
    node.parent,
    node.name,
    node.path,
    node.handle,
    node.anchor,
  ]
}

export function decodeNode(record: Record): NodeState {
  const fields = new Fields(record, 'a node', 8)
  const node: NodeState = {
    nodeid: fields.id('nodeid', MAX_NODE_SLOT),
    lookups: fields.number('lookups', 0, MAX_LOOKUPS),
    type: fields.number('type', 0, 15) * 0o10000,
    parent: fields.id('parent', MAX_NODE_SLOT),
    name: fields.bytes('name', MAX_NAME_BYTES),
    path: fields.bytes('path', MAX_PATH_BYTES),
    handle: handle(fields, fields.bytes('handle', MAX_HANDLE_BYTES)),
    anchor: fields.id('anchor', MAX_NODE_SLOT),
  }
  if (node.nodeid % TWO32 <= ROOT_NODEID) fields.fail(`nodeid ${node.nodeid} is reserved`)
  if ((node.type & S_IFMT) === 0 || !TYPES.includes(node.type)) fields.fail('no type of file')
  if (node.parent === node.nodeid || node.anchor === node.nodeid)
    fields.fail(`${node.nodeid} lies in itself`)
  if (node.parent === 0 ? node.name !== '' : !isName(node.name)) fields.fail('a bad name')
  if (node.path !== '' && !node.path.split('/').every(isName)) fields.fail('a bad path')
  return node
}

/** One component that stays where it is. */
function isName(name: string): boolean {
  return (
    name !== '' &&
    name.length <= MAX_NAME_BYTES &&
    name !== '.' &&
    name !== '..' &&
    !name.includes('/') &&
    !name.includes('\0')
  )
}

/** struct file_handle: its length field must be true. */
function handle(fields: Fields, bytes: string): string {
  if (bytes === '') return bytes
  const raw = Buffer.from(bytes, 'latin1')
  if (raw.length < 8 || raw.readUInt32LE(0) !== raw.length - 8) fields.fail('a bad file handle')
  return bytes
}

export function encodeHandle(state: HandleState): Record {
  return [Kind.handle, state.fh, state.nodeid, state.directory ? 1 : 0, state.flags]
}

export function decodeHandle(record: Record): HandleState {
  const fields = new Fields(record, 'an open file', 4)
  return {
    fh: fields.id('fh', MAX_HANDLE_SLOT),
    nodeid: fields.id('nodeid', MAX_NODE_SLOT),
    directory: fields.number('directory', 0, 1) === 1,
    flags: fields.number('flags', 0, 0x7fff_ffff),
  }
}

export interface Counts {
  readonly nodes: number
  readonly handles: number
}

export function encodeEnd(counts: Counts): Record {
  return [Kind.end, counts.nodes, counts.handles]
}

export function decodeEnd(record: Record): Counts {
  const fields = new Fields(record, 'its end', 2)
  return {
    nodes: fields.number('nodes', 0, MAX_U32),
    handles: fields.number('open files', 0, MAX_U32),
  }
}
