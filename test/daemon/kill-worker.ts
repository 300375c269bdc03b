/**
 * One process of a guest, as the daemon sees it: it changes names of its own, one request after the other,
 * writes into files that all share, and looks at what others do. It remembers what was answered.
 */
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { Opcode } from '../../protocol/fuse/opcodes.js'
import { attrOf, entryOf, Fattr, setattrBody, writeBody } from '../coherence/mock-guest.js'
import { type Answer, BusyDriver, Gone } from '../helpers/busy-driver.js'
import { concat, u32s, u64 } from '../helpers/front-end.js'
import { text } from '../helpers/fuse-client.js'
import { UNLOCK, WRITE } from '../helpers/lock-guest.js'

/** Where all guests work. */
export const FOLDERS = ['a', 'b'] as const
const NAMES = 4
const ROOT = 1
const O_RDWR = 2
const O_APPEND = 0o2000
const O_CREAT_EXCL = 0o300
const ENOENT = -2
const ESTALE = -116
const MOST_CONTENT = 400

/** Files that all append to: by O_APPEND, or where the file ends, under a lock. */
export const SHARED = ['appended', 'posix', 'flock'] as const
type Shared = (typeof SHARED)[number]
export const RECORD_BYTES = 24

interface File {
  content: string
  mode: number
}
type Files = Map<string, File>

/** Who has which lock: for all guests. */
export class LockHolders {
  readonly #by = new Map<string, Worker>()
  readonly #dead = new Set<Worker>()
  taken = 0

  took(name: string, worker: Worker): void {
    if (this.#dead.has(worker)) return
    const other = this.#by.get(name)
    if (other !== undefined) throw new Error(`${name} is locked by ${other.who} and ${worker.who}`)
    this.#by.set(name, worker)
    this.taken++
  }

  leaves(name: string, worker: Worker): void {
    if (this.#by.get(name) === worker) this.#by.delete(name)
  }

  /** Their daemon is killed: they have no locks from now on, whatever answers are still to be taken. */
  die(workers: readonly Worker[]): void {
    for (const worker of workers) {
      this.#dead.add(worker)
      for (const name of SHARED) this.leaves(name, worker)
    }
  }

  revive(workers: readonly Worker[]): void {
    for (const worker of workers) this.#dead.delete(worker)
  }
}

export class Worker {
  readonly who: string
  readonly files: Files = new Map()
  /** Records that are in the shared files for certain, and such that may be. */
  readonly written = new Set<string>()
  readonly unsure = new Set<string>()
  /** Requests that were answered. */
  answers = 0
  #driver: BusyDriver | undefined
  readonly #folders: readonly string[]
  readonly #alone: boolean
  readonly #share: string
  readonly #random: (below: number) => number
  readonly #locks: LockHolders
  readonly #others: readonly Worker[]
  readonly #owner: bigint
  readonly #nodes = new Map<string, number>()
  readonly #handles = new Map<string, bigint>()
  /** The change in flight: what it makes of the files if it is made. */
  #maybe: ((files: Files) => void) | undefined
  #stops = false
  #records = 0

  /** `folders`: where it has its names. `alone`: it does not touch what other guests look at. */
  constructor(
    who: string,
    folders: readonly string[],
    alone: boolean,
    share: string,
    next: (below: number) => number,
    locks: LockHolders,
    others: readonly Worker[],
  ) {
    this.who = who
    this.#folders = folders
    this.#alone = alone
    this.#share = share
    this.#random = next
    this.#locks = locks
    this.#others = others
    this.#owner = BigInt(1 + Math.floor(Number(who) * 10))
  }

  /** Every path this worker may use. */
  get paths(): string[] {
    return this.#folders.flatMap(folder =>
      Array.from({ length: NAMES }, (_, i) => `${folder}/${this.who}-${i}`),
    )
  }

  /** Works until `stop`, or until the daemon is gone. */
  async run(driver: BusyDriver): Promise<void> {
    this.#driver = driver
    this.#stops = false
    try {
      if (this.#handles.size === 0) await this.#prepare()
      while (!this.#stops) await this.#step()
    } catch (cause) {
      if (!(cause instanceof Gone)) throw cause
      this.#nodes.clear()
      this.#handles.clear()
    }
  }

  stop(): void {
    this.#stops = true
  }

  async #ask(opcode: number, nodeid: number, body: Uint8Array): Promise<Answer> {
    const answer = await this.#driver!.ask(opcode, nodeid, body)
    this.answers++
    return answer
  }

  async #do(opcode: number, nodeid: number, body: Uint8Array): Promise<DataView> {
    const { error, body: reply } = await this.#ask(opcode, nodeid, body)
    if (error !== 0) throw new Error(`${this.who}: opcode ${opcode} of node ${nodeid}: ${error}`)
    return reply
  }

  /** A request that makes `change` of this worker's files. */
  async #change(
    opcode: number,
    nodeid: number,
    body: Uint8Array,
    change: (files: Files) => void,
  ): Promise<DataView> {
    this.#maybe = change
    const reply = await this.#do(opcode, nodeid, body)
    this.#maybe = undefined
    change(this.files)
    return reply
  }

  async #prepare(): Promise<void> {
    for (const name of [...FOLDERS, ...this.#folders, ...SHARED])
      this.#nodes.set(name, entryOf(await this.#do(Opcode.FUSE_LOOKUP, ROOT, text(name))).nodeid)
    for (const name of SHARED) {
      const flags = O_RDWR | (name === 'appended' ? O_APPEND : 0)
      this.#handles.set(name, await this.#open(this.#nodes.get(name)!, flags))
    }
  }

  async #open(nodeid: number, flags: number): Promise<bigint> {
    return (await this.#do(Opcode.FUSE_OPEN, nodeid, u32s(flags, 0))).getBigUint64(0, true)
  }

  async #release(nodeid: number, fh: bigint): Promise<void> {
    await this.#do(Opcode.FUSE_RELEASE, nodeid, concat(u64(fh), u32s(0, 0), u64(0n)))
  }

  #place(path: string): { readonly parent: number; readonly name: string } {
    const [folder, name] = path.split('/')
    return { parent: this.#nodes.get(folder!)!, name: name! }
  }

  #pick<T>(all: readonly T[]): T {
    return all[this.#random(all.length)]!
  }

  async #step(): Promise<void> {
    const kind = this.#random(10)
    if (this.#alone || kind < 6) await this.#own(this.#pick(this.paths))
    else if (kind < 8) await this.#look(this.#pick(this.#pick(this.#others).paths))
    else if (kind === 8) await this.#append()
    else await this.#locked(this.#pick(['posix', 'flock']))
  }

  /** Looks at a name of its own, which must be as remembered, and changes it. */
  async #own(path: string): Promise<void> {
    const { parent, name } = this.#place(path)
    const nodeid = await this.#expect(path)
    const file = this.files.get(path)
    if (file === undefined) return await this.#create(path)
    const kind = this.#random(6)
    const now = (files: Files): File => files.get(path)!
    if (kind === 0)
      await this.#change(Opcode.FUSE_UNLINK, parent, text(name), files => files.delete(path))
    else if (kind === 1) await this.#rename(path, this.#pick(this.paths))
    else if (kind === 2) {
      const mode = 0o600 + this.#random(64)
      const body = setattrBody(Fattr.mode, { mode })
      await this.#change(Opcode.FUSE_SETATTR, nodeid, body, files => {
        now(files).mode = mode
      })
    } else if (kind === 3) {
      const size = this.#random(file.content.length + 1)
      const body = setattrBody(Fattr.size, { size })
      await this.#change(Opcode.FUSE_SETATTR, nodeid, body, files => {
        now(files).content = now(files).content.slice(0, size)
      })
    } else await this.#write(path, nodeid)
  }

  async #expect(path: string): Promise<number> {
    const { parent, name } = this.#place(path)
    const { error, body } = await this.#ask(Opcode.FUSE_LOOKUP, parent, text(name))
    if (error !== 0 && error !== ENOENT) throw new Error(`LOOKUP of ${path}: ${error}`)
    const { nodeid, stat } =
      error === 0 ? entryOf(body) : { nodeid: 0, stat: { size: 0, mode: 0 } as const }
    const seen = nodeid === 0 ? 'nothing' : `${stat.size} bytes, mode ${stat.mode & 0o777}`
    const file = this.files.get(path)
    const wanted =
      file === undefined ? 'nothing' : `${file.content.length} bytes, mode ${file.mode}`
    if (seen !== wanted) throw new Error(`${path} is ${seen}, not ${wanted}`)
    return nodeid
  }

  async #create(path: string): Promise<void> {
    const { parent, name } = this.#place(path)
    const body = concat(u32s(O_RDWR | O_CREAT_EXCL, 0o100600, 0, 0), text(name))
    const reply = await this.#change(Opcode.FUSE_CREATE, parent, body, files => {
      files.set(path, { content: '', mode: 0o600 })
    })
    await this.#release(entryOf(reply).nodeid, reply.getBigUint64(128, true))
  }

  async #rename(path: string, to: string): Promise<void> {
    if (to === path) return
    const from = this.#place(path)
    const { parent, name } = this.#place(to)
    const body = concat(u64(BigInt(parent)), text(from.name), text(name))
    await this.#change(Opcode.FUSE_RENAME, from.parent, body, files => {
      files.set(to, files.get(path)!)
      files.delete(path)
    })
  }

  async #write(path: string, nodeid: number): Promise<void> {
    const { content } = this.files.get(path)!
    const at = content.length > MOST_CONTENT ? 0 : this.#random(content.length + 1)
    const part = String.fromCharCode(97 + this.#random(26)).repeat(1 + this.#random(64))
    const fh = await this.#open(nodeid, O_RDWR)
    const body = writeBody(fh, at, text(part).subarray(0, part.length))
    await this.#change(Opcode.FUSE_WRITE, nodeid, body, files => {
      const file = files.get(path)!
      file.content = file.content.slice(0, at) + part + file.content.slice(at + part.length)
    })
    await this.#release(nodeid, fh)
  }

  /** Looks at what may be another's, and takes leases. */
  async #look(path: string): Promise<void> {
    const { parent, name } = this.#place(path)
    const { error, body } = await this.#ask(Opcode.FUSE_LOOKUP, parent, text(name))
    if (error !== 0 && error !== ENOENT) throw new Error(`LOOKUP of ${path}: ${error}`)
    const nodeid = error === 0 ? entryOf(body).nodeid : this.#pick([...this.#nodes.values()])
    if (nodeid === 0) return
    const looked = await this.#ask(Opcode.FUSE_GETATTR, nodeid, concat(u32s(0, 0), u64(0n)))
    if (looked.error !== 0 && looked.error !== ENOENT && looked.error !== ESTALE)
      throw new Error(`GETATTR of ${path}: ${looked.error}`)
  }

  /** Writes the next record at `offset` of a shared file. */
  async #record(name: Shared, offset: number): Promise<void> {
    const record = `${name} ${this.who} ${this.#records++}`.padEnd(RECORD_BYTES - 1)
    const body = writeBody(this.#handles.get(name)!, offset, text(`${record}\n`).subarray(0, -1))
    this.unsure.add(record)
    await this.#do(Opcode.FUSE_WRITE, this.#nodes.get(name)!, body)
    this.unsure.delete(record)
    this.written.add(record)
  }

  async #append(): Promise<void> {
    await this.#record('appended', 0)
  }

  /** Two who had the lock would write to the same place. */
  async #locked(name: 'posix' | 'flock'): Promise<void> {
    const nodeid = this.#nodes.get(name)!
    const body = (type: number): Uint8Array =>
      BusyDriver.lockBody(this.#handles.get(name)!, this.#owner, type, name === 'flock')
    await this.#do(Opcode.FUSE_SETLKW, nodeid, body(WRITE))
    this.#locks.took(name, this)
    const { stat } = attrOf(
      await this.#do(Opcode.FUSE_GETATTR, nodeid, concat(u32s(0, 0), u64(0n))),
    )
    await this.#record(name, stat.size)
    this.#locks.leaves(name, this)
    await this.#do(Opcode.FUSE_SETLK, nodeid, body(UNLOCK))
  }

  /**
   * Compares what is in the share with what was answered; a change that was not answered is made or not.
   * It is known from here on. Returns whether one was made that was not answered.
   */
  reconcile(): boolean {
    const there: Files = new Map()
    for (const path of this.paths) {
      const stat = statSync(join(this.#share, path), { throwIfNoEntry: false })
      if (stat === undefined) continue
      const content = readFileSync(join(this.#share, path), 'latin1')
      there.set(path, { content, mode: stat.mode & 0o777 })
    }
    const seen = told(there)
    const maybe = this.#maybe
    this.#maybe = undefined
    if (seen === told(this.files)) return false
    const wanted = told(this.files)
    maybe?.(this.files)
    if (maybe !== undefined && seen === told(this.files)) return true
    const or = maybe === undefined ? '' : `\nor\n${told(this.files)}`
    throw new Error(`${this.who}: there is\n${seen}\nand was answered\n${wanted}${or}`)
  }
}

function told(files: Files): string {
  const lines = [...files].map(([path, { content, mode }]) => `${path} ${mode} ${content}`)
  return lines.sort().join('\n')
}

/** Reads the shared files: every record that was answered is there, once, and none is torn or unknown. */
export function checkRecords(share: string, workers: readonly Worker[], allStopped: boolean): void {
  const seen = new Set<string>()
  for (const name of SHARED) {
    const content = readFileSync(join(share, name), 'latin1')
    for (let at = 0; at < content.length; at += RECORD_BYTES) {
      const record = content.slice(at, at + RECORD_BYTES)
      const owner = workers.find(({ who }) => record.startsWith(`${name} ${who} `))
      if (owner === undefined || !record.endsWith('\n'))
        throw new Error(`${name} has a torn record at ${at}: ${JSON.stringify(record)}`)
      const line = record.slice(0, -1)
      if (seen.has(line)) throw new Error(`${line} is there twice`)
      if (allStopped && !owner.written.has(line) && !owner.unsure.has(line))
        throw new Error(`${line} is there, and nobody wrote it`)
      seen.add(line)
    }
  }
  for (const { written } of workers)
    for (const record of written)
      if (!seen.has(record)) throw new Error(`${record} was answered, and is lost`)
}
