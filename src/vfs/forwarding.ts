/** A file system that hands every operation on to another: layers extend it with what they add. */
import type { MappableFiles } from './dax.js'
import type { Capabilities, FileSystem, Negotiated, Outcome, Waits } from './filesystem.js'
import type { Identities } from './identities.js'
import type { Migratable } from './migration.js'

type P<M extends keyof FileSystem> = FileSystem[M] extends (...args: infer A) => unknown ? A : never

export class ForwardingFileSystem implements FileSystem {
  protected readonly inner: FileSystem
  readonly waits: Waits | undefined

  constructor(inner: FileSystem) {
    this.inner = inner
    this.waits = inner.waits
  }

  get capabilities(): Capabilities {
    return this.inner.capabilities
  }
  get migration(): Migratable | undefined {
    return this.inner.migration
  }
  get mappable(): MappableFiles | undefined {
    return this.inner.mappable
  }
  get identities(): Identities | undefined {
    return this.inner.identities
  }
  init(negotiated: Negotiated): void {
    this.inner.init(negotiated)
  }
  destroy(): void {
    this.inner.destroy()
  }
  renew(): void {
    this.inner.renew()
  }
  tidy(nowMs: number): number {
    return this.inner.tidy(nowMs)
  }
  pathOf(nodeid: number): string | undefined {
    return this.inner.pathOf?.(nodeid)
  }
  forget(nodeid: number, nlookup: number): void {
    this.inner.forget(nodeid, nlookup)
  }
  lookup(...a: P<'lookup'>): Outcome {
    return this.inner.lookup(...a)
  }
  getattr(...a: P<'getattr'>): Outcome {
    return this.inner.getattr(...a)
  }
  setattr(...a: P<'setattr'>): Outcome {
    return this.inner.setattr(...a)
  }
  readlink(...a: P<'readlink'>): Outcome {
    return this.inner.readlink(...a)
  }
  access(...a: P<'access'>): Outcome {
    return this.inner.access(...a)
  }
  statfs(...a: P<'statfs'>): Outcome {
    return this.inner.statfs(...a)
  }
  mknod(...a: P<'mknod'>): Outcome {
    return this.inner.mknod(...a)
  }
  mkdir(...a: P<'mkdir'>): Outcome {
    return this.inner.mkdir(...a)
  }
  symlink(...a: P<'symlink'>): Outcome {
    return this.inner.symlink(...a)
  }
  link(...a: P<'link'>): Outcome {
    return this.inner.link(...a)
  }
  unlink(...a: P<'unlink'>): Outcome {
    return this.inner.unlink(...a)
  }
  rmdir(...a: P<'rmdir'>): Outcome {
    return this.inner.rmdir(...a)
  }
  rename(...a: P<'rename'>): Outcome {
    return this.inner.rename(...a)
  }
  open(...a: P<'open'>): Outcome {
    return this.inner.open(...a)
  }
  create(...a: P<'create'>): Outcome {
    return this.inner.create(...a)
  }
  tmpfile(...a: P<'tmpfile'>): Outcome {
    return this.inner.tmpfile(...a)
  }
  read(...a: P<'read'>): Outcome {
    return this.inner.read(...a)
  }
  write(...a: P<'write'>): Outcome {
    return this.inner.write(...a)
  }
  flush(...a: P<'flush'>): Outcome {
    return this.inner.flush(...a)
  }
  release(...a: P<'release'>): Outcome {
    return this.inner.release(...a)
  }
  fsync(...a: P<'fsync'>): Outcome {
    return this.inner.fsync(...a)
  }
  lseek(...a: P<'lseek'>): Outcome {
    return this.inner.lseek(...a)
  }
  fallocate(...a: P<'fallocate'>): Outcome {
    return this.inner.fallocate(...a)
  }
  copyFileRange(...a: P<'copyFileRange'>): Outcome {
    return this.inner.copyFileRange(...a)
  }
  ioctl(...a: P<'ioctl'>): Outcome {
    return this.inner.ioctl(...a)
  }
  opendir(...a: P<'opendir'>): Outcome {
    return this.inner.opendir(...a)
  }
  readdir(...a: P<'readdir'>): Outcome {
    return this.inner.readdir(...a)
  }
  releasedir(...a: P<'releasedir'>): Outcome {
    return this.inner.releasedir(...a)
  }
  fsyncdir(...a: P<'fsyncdir'>): Outcome {
    return this.inner.fsyncdir(...a)
  }
  syncfs(...a: P<'syncfs'>): Outcome {
    return this.inner.syncfs(...a)
  }
  getxattr(...a: P<'getxattr'>): Outcome {
    return this.inner.getxattr(...a)
  }
  listxattr(...a: P<'listxattr'>): Outcome {
    return this.inner.listxattr(...a)
  }
  setxattr(...a: P<'setxattr'>): Outcome {
    return this.inner.setxattr(...a)
  }
  removexattr(...a: P<'removexattr'>): Outcome {
    return this.inner.removexattr(...a)
  }
  getlk(...a: P<'getlk'>): Outcome {
    return this.inner.getlk(...a)
  }
  setlk(...a: P<'setlk'>): Outcome {
    return this.inner.setlk(...a)
  }
  interrupt(token: number, outcome: Outcome): boolean {
    return this.inner.interrupt(token, outcome)
  }
  finished(job: number, result: number): void {
    this.inner.finished(job, result)
  }
}
