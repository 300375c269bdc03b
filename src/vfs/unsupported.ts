/** A file system in which every operation answers ENOSYS: back ends extend it with what they have. */
import { Errno } from '../../protocol/errno.js'
import type { Capabilities, FileSystem, Negotiated, Outcome } from './filesystem.js'

export const NO_CAPABILITIES: Capabilities = Object.freeze({
  readdirplus: false,
  xattr: false,
  posixAcl: false,
  securityContext: false,
  killpriv: false,
  writeback: false,
  submounts: false,
  directIoMmap: false,
  flockLocks: false,
  posixLocks: false,
  readOnly: false,
})

const ENOSYS = -Errno.ENOSYS

/* Parameters are left out on purpose: an override declares those it uses. */
export class UnsupportedFileSystem {
  readonly capabilities: Capabilities = NO_CAPABILITIES
  init(_negotiated: Negotiated): void {}
  destroy(): void {}
  renew(): void {}
  tidy(_nowMs: number): number {
    return -1
  }
  forget(_nodeid: number, _nlookup: number): void {}
  lookup(..._: Parameters<FileSystem['lookup']>): Outcome {
    return ENOSYS
  }
  getattr(..._: Parameters<FileSystem['getattr']>): Outcome {
    return ENOSYS
  }
  setattr(..._: Parameters<FileSystem['setattr']>): Outcome {
    return ENOSYS
  }
  readlink(..._: Parameters<FileSystem['readlink']>): Outcome {
    return ENOSYS
  }
  access(..._: Parameters<FileSystem['access']>): Outcome {
    return ENOSYS
  }
  statfs(..._: Parameters<FileSystem['statfs']>): Outcome {
    return ENOSYS
  }
  mknod(..._: Parameters<FileSystem['mknod']>): Outcome {
    return ENOSYS
  }
  mkdir(..._: Parameters<FileSystem['mkdir']>): Outcome {
    return ENOSYS
  }
  symlink(..._: Parameters<FileSystem['symlink']>): Outcome {
    return ENOSYS
  }
  link(..._: Parameters<FileSystem['link']>): Outcome {
    return ENOSYS
  }
  unlink(..._: Parameters<FileSystem['unlink']>): Outcome {
    return ENOSYS
  }
  rmdir(..._: Parameters<FileSystem['rmdir']>): Outcome {
    return ENOSYS
  }
  rename(..._: Parameters<FileSystem['rename']>): Outcome {
    return ENOSYS
  }
  open(..._: Parameters<FileSystem['open']>): Outcome {
    return ENOSYS
  }
  create(..._: Parameters<FileSystem['create']>): Outcome {
    return ENOSYS
  }
  tmpfile(..._: Parameters<FileSystem['tmpfile']>): Outcome {
    return -Errno.EOPNOTSUPP
  }
  read(..._: Parameters<FileSystem['read']>): Outcome {
    return ENOSYS
  }
  write(..._: Parameters<FileSystem['write']>): Outcome {
    return ENOSYS
  }
  flush(..._: Parameters<FileSystem['flush']>): Outcome {
    return ENOSYS
  }
  release(..._: Parameters<FileSystem['release']>): Outcome {
    return ENOSYS
  }
  fsync(..._: Parameters<FileSystem['fsync']>): Outcome {
    return ENOSYS
  }
  lseek(..._: Parameters<FileSystem['lseek']>): Outcome {
    return ENOSYS
  }
  fallocate(..._: Parameters<FileSystem['fallocate']>): Outcome {
    return ENOSYS
  }
  copyFileRange(..._: Parameters<FileSystem['copyFileRange']>): Outcome {
    return ENOSYS
  }
  ioctl(..._: Parameters<FileSystem['ioctl']>): Outcome {
    return ENOSYS
  }
  opendir(..._: Parameters<FileSystem['opendir']>): Outcome {
    return ENOSYS
  }
  readdir(..._: Parameters<FileSystem['readdir']>): Outcome {
    return ENOSYS
  }
  releasedir(..._: Parameters<FileSystem['releasedir']>): Outcome {
    return ENOSYS
  }
  fsyncdir(..._: Parameters<FileSystem['fsyncdir']>): Outcome {
    return ENOSYS
  }
  syncfs(..._: Parameters<FileSystem['syncfs']>): Outcome {
    return ENOSYS
  }
  getxattr(..._: Parameters<FileSystem['getxattr']>): Outcome {
    return ENOSYS
  }
  listxattr(..._: Parameters<FileSystem['listxattr']>): Outcome {
    return ENOSYS
  }
  setxattr(..._: Parameters<FileSystem['setxattr']>): Outcome {
    return ENOSYS
  }
  removexattr(..._: Parameters<FileSystem['removexattr']>): Outcome {
    return ENOSYS
  }
  interrupt(_token: number, _outcome: Outcome): boolean {
    return false
  }
  finished(job: number, _result: number): void {
    throw new Error(`pool job ${job} is nobody's`)
  }
  getlk(..._: Parameters<FileSystem['getlk']>): Outcome {
    return ENOSYS
  }
  setlk(..._: Parameters<FileSystem['setlk']>): Outcome {
    return ENOSYS
  }
}
const _complete: FileSystem = new UnsupportedFileSystem()
void _complete
