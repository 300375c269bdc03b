/**
 * What back ends fill in: plain, reused objects with number fields. The FUSE layer turns them into
 * wire structs, so that a back end knows no byte layout.
 */

/** Attributes of a node, stat(2) vocabulary. Every field must be set: the object is reused. */
export class Attributes {
  /** Inode number the guest shows, as two words: it may use all 64 bits. */
  inoLow = 0
  inoHigh = 0
  sizeBytes = 0
  /** 512-byte blocks. */
  blocks = 0
  atimeSec = 0
  atimeNsec = 0
  mtimeSec = 0
  mtimeNsec = 0
  ctimeSec = 0
  ctimeNsec = 0
  /** Birth time; `hasBirth` false when the file system keeps none. */
  hasBirth = false
  btimeSec = 0
  btimeNsec = 0
  mode = 0
  nlink = 0
  uid = 0
  gid = 0
  rdevMajor = 0
  rdevMinor = 0
  blksize = 4096
  /** Another file system is mounted here (FUSE_ATTR_SUBMOUNT). */
  submount = false
  /** The file may be mapped into the DAX window (FUSE_ATTR_DAX). */
  dax = false
  /** STATX_ATTR_* bits for STATX, and which of them are supported. */
  statxAttributes = 0
  statxAttributesMask = 0
  /** How long the guest may answer from its cache. */
  validSec = 0
  validNsec = 0
}

/** A node found or made, and how long its name may be cached. */
export class EntryReply {
  nodeid = 0
  generation = 0
  entryValidSec = 0
  entryValidNsec = 0
  readonly attr = new Attributes()
}

/** An open file or directory. */
/** How an open file is read and written without its file system; see `OpenReply.direct`. */
export class DirectAccess {
  /** The back end's, open until RELEASE or `destroy`; -1: only the back end can read and write the file. */
  fd = -1
  reads = false
  /** Shorter reads are better left to the back end, in bytes. */
  readsFrom = 0
  /** RWF_* flags of a read: RWF_NOWAIT where data may have to be waited for. What fails goes the ordinary way. */
  readFlags = 0
  writes = false
}

export class OpenReply {
  /** Ours, at least 0 and below 2^53. */
  fh = 0
  /** Bypass the guest's page cache (FOPEN_DIRECT_IO). */
  directIo = false
  /** Keep what the guest has cached of the file (FOPEN_KEEP_CACHE). */
  keepCache = false
  /** Directory entries may be cached (FOPEN_CACHE_DIR). */
  cacheDir = false
  /** No FLUSH at close (FOPEN_NOFLUSH). */
  noFlush = false
  /** Direct writes by several writers at once (FOPEN_PARALLEL_DIRECT_WRITES). */
  parallelDirectWrites = false
  /** Reads and writes of this file need no more than a descriptor. */
  readonly direct = new DirectAccess()

  reset(): void {
    this.fh = 0
    this.directIo = false
    this.keepCache = false
    this.cacheDir = false
    this.noFlush = false
    this.parallelDirectWrites = false
    this.direct.fd = -1
  }
}

/** Changes asked by SETATTR; a field counts only when its `set...` flag is true. */
export class SetAttributes {
  setMode = false
  mode = 0
  setUid = false
  uid = 0
  setGid = false
  gid = 0
  setSize = false
  sizeBytes = 0
  setAtime = false
  /** The host's clock instead of `atimeSec`. */
  atimeNow = false
  atimeSec = 0
  atimeNsec = 0
  setMtime = false
  mtimeNow = false
  mtimeSec = 0
  mtimeNsec = 0
  /** With write-back caching the guest owns ctime. */
  setCtime = false
  ctimeSec = 0
  ctimeNsec = 0
  /** Clear set-user-id and set-group-id bits along with the change. */
  killSuidgid = false
}

/** statfs(2) numbers. */
export class StatfsReply {
  blocks = 0
  bfree = 0
  bavail = 0
  files = 0
  ffree = 0
  /** Bytes. */
  bsize = 4096
  namelen = 255
  /** Bytes. */
  frsize = 4096
}
