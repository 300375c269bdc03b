/** Whose rights a thread has: only the calling thread changes, and it comes back as it was. */
import {
  chmodSync,
  constants as files,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { PoolCall } from '../../src/native/addon.js'
import type { Context } from '../../src/native/context.js'
import {
  E,
  inChild,
  inWorker,
  LONG_MS,
  makeContext,
  makeFolder,
  open,
  put,
  reapAll,
  ROOT,
} from './support.js'

const UID = 12_345
const GID = 23_456
const GROUPS_AT = 4096
const CAP_CHOWN = 0
const CAP_DAC_OVERRIDE = 1
const CAP_SETGID = 6
const CAP_SETUID = 7

interface Rights {
  readonly name: string
  /** Real, effective, saved, of the file system. */
  readonly uid: string
  readonly gid: string
  readonly groups: string
  readonly effective: string
}

function rightsOf(task: string | number): Rights {
  const status = readFileSync(`/proc/self/task/${task}/status`, 'utf8')
  const field = (name: string): string => new RegExp(`^${name}:[ \\t]*(.*)$`, 'm').exec(status)![1]!
  return {
    name: field('Name'),
    uid: field('Uid').replaceAll('\t', ' '),
    gid: field('Gid').replaceAll('\t', ' '),
    groups: field('Groups').trim(),
    effective: field('CapEff'),
  }
}

/** Of this thread, the process' first. */
function mine(): Rights {
  return rightsOf(process.pid)
}

/** Of every other thread. */
function others(): Map<string, Rights> {
  const found = new Map<string, Rights>()
  for (const task of readdirSync('/proc/self/task'))
    if (task !== String(process.pid)) {
      try {
        found.set(task, rightsOf(task))
      } catch {
        // It has just ended.
      }
    }
  return found
}

function setGroups(context: Context, groups: readonly number[]): void {
  for (const [i, group] of groups.entries()) context.view.setUint32(GROUPS_AT + i * 4, group, true)
}

/** A context whose thread is itself again at the end, whatever happened. */
function scene(t: ExecutionContext): { context: Context; folder: string; dir: number } {
  const context = makeContext(t, { poolThreads: 4 })
  t.teardown(() => void context.restoreCredentials())
  const folder = makeFolder(t)
  chmodSync(folder, 0o777)
  return { context, folder, dir: open(t, folder, files.O_RDONLY | files.O_DIRECTORY) }
}

/** Root's tests; anybody else is refused, and stays what it is. */
function rootTest(title: string, body: (t: ExecutionContext) => void | Promise<void>): void {
  if (ROOT) test(title, body)
  else
    test(`${title} (not root: EPERM)`, t => {
      const { context } = scene(t)
      const before = mine()
      t.is(context.setCredentials(UID, GID, GROUPS_AT, 1), -E.EPERM)
      t.is(context.setCredentials(UID, GID, 0, -1), -E.EPERM)
      t.deepEqual(mine(), before)
      t.is(context.restoreCredentials(), 0)
      t.deepEqual(mine(), before)
    })
}

rootTest('setCredentials changes the calling thread and no other', t => {
  const { context, dir, folder } = scene(t)
  const before = mine()
  const rest = others()
  t.true(rest.size > 0)
  setGroups(context, [GID + 2, GID + 1])
  t.is(context.setCredentials(UID, GID, GROUPS_AT, 2), 0)
  const switched = mine()
  const created = context.openat(
    dir,
    put(context, 0, 'mine'),
    files.O_CREAT | files.O_WRONLY,
    0o600,
    0,
  )
  const device = context.mknodat(dir, put(context, 0, 'device'), 0o020600, 1, 3)
  const during = others()
  t.is(context.restoreCredentials(), 0)
  t.is(switched.uid, `0 ${UID} 0 ${UID}`)
  t.is(switched.gid, `${before.gid.split(' ')[0]} ${GID} ${before.gid.split(' ')[2]} ${GID}`)
  t.is(switched.groups, `${GID + 1} ${GID + 2}`)
  t.is(Number.parseInt(switched.effective, 16), 0, 'no capabilities')
  for (const [task, rights] of during) t.deepEqual(rights, rest.get(task) ?? rights, task)
  for (const rights of during.values()) t.is(rights.uid, before.uid)
  t.true(created > 2)
  t.is(context.close(created), 0)
  t.like(statSync(join(folder, 'mine')), { uid: UID, gid: GID })
  t.is(device, -E.EPERM)
  t.deepEqual(mine(), before, 'and all of it is back')
})

rootTest('rights are those of the switched user, with and without groups', t => {
  const { context, dir, folder } = scene(t)
  writeFileSync(join(folder, 'root'), '')
  chmodSync(join(folder, 'root'), 0o600)
  put(context, 0, 'root')
  put(context, 100, 'group')
  writeFileSync(join(folder, 'group'), '')
  chmodSync(join(folder, 'group'), 0o040)
  const node = context.openat(dir, 100, files.O_RDONLY, 0, 0)
  t.is(context.chown(node, 0, GID + 5), 0)
  t.is(context.close(node), 0)
  const tryOpen = (nameAt: number): number => {
    const fd = context.openat(dir, nameAt, files.O_RDONLY, 0, 0)
    return fd >= 0 ? context.close(fd) : fd
  }
  setGroups(context, [GID + 5])
  t.is(context.setCredentials(UID, GID, GROUPS_AT, 0), 0)
  const without = [tryOpen(0), tryOpen(100)]
  t.is(context.restoreCredentials(), 0)
  t.is(context.setCredentials(UID, GID, GROUPS_AT, 1), 0)
  const withGroup = [tryOpen(0), tryOpen(100)]
  t.is(context.restoreCredentials(), 0)
  t.deepEqual(without, [-E.EACCES, -E.EACCES])
  t.deepEqual(withGroup, [-E.EACCES, 0])
  t.deepEqual([tryOpen(0), tryOpen(100)], [0, 0])
})

rootTest('groups come back, also those that are many, and -1 leaves them alone', t => {
  // In a process of its own, which has groups to begin with.
  const ended = inChild(({ Context }) => {
    const { readFileSync } = process.getBuiltinModule('node:fs')
    const start = Array.from({ length: 40 }, (_, i) => 1000 + i * 3)
    process.setgroups!(start)
    const groups = (): string =>
      /^Groups:[ \t]*(.*?)[ \t]*$/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]!
    const context = new Context({ arenaBytes: 65536, maxSegments: 1, poolThreads: 1 })
    const seen = [groups()]
    for (let i = 0; i < 1000; i++) context.view.setUint32(i * 4, 5000 + i, true)
    const answers = [context.setCredentials(1, 2, 0, 1000)]
    seen.push(groups())
    answers.push(context.restoreCredentials())
    seen.push(groups())
    answers.push(context.setCredentials(1, 2, 0, -1))
    seen.push(groups())
    answers.push(context.restoreCredentials())
    seen.push(groups())
    answers.push(context.setCredentials(1, 2, 0, 0))
    seen.push(groups())
    answers.push(context.restoreCredentials())
    seen.push(groups())
    return { answers, seen }
  })
  const { answers, seen } = ended.value as { answers: number[]; seen: string[] }
  t.deepEqual(answers, [0, 0, 0, 0, 0, 0])
  const start = Array.from({ length: 40 }, (_, i) => 1000 + i * 3).join(' ')
  const many = Array.from({ length: 1000 }, (_, i) => 5000 + i).join(' ')
  t.deepEqual(seen, [start, many, start, start, start, '', start])
})

rootTest('a switch that fails leaves the thread as it was', t => {
  const { context } = scene(t)
  const before = mine()
  setGroups(context, [GID + 1])
  // Arguments that are none.
  for (const [uid, gid, at, count] of [
    [-1, GID, GROUPS_AT, 1],
    [UID, -1, GROUPS_AT, 1],
    [2 ** 32, GID, GROUPS_AT, 1],
    [UID, 0.5, GROUPS_AT, 1],
    [UID, GID, GROUPS_AT, 65_537],
    [UID, GID, GROUPS_AT, 0.5],
  ] as const)
    t.is(context.setCredentials(uid, gid, at, count), -E.EINVAL, `${uid} ${gid} ${at} ${count}`)
  for (const [at, count] of [
    [65_536, 1],
    [65_533, 1],
    [-1, 1],
    [0, 65_536],
    [GROUPS_AT, 16_000],
  ] as const)
    t.is(context.setCredentials(UID, GID, at, count), -E.EFAULT, `${at} ${count}`)
  t.deepEqual(mine(), before)
  // Halfway: the groups and the group can be changed, the user cannot, and the other way round.
  for (const capability of [CAP_SETUID, CAP_SETGID])
    for (const count of [1, 0, -1]) {
      t.is(context.setEffectiveCapability(capability, 0), 1)
      const limited = mine()
      t.is(context.setCredentials(UID, GID, GROUPS_AT, count), -E.EPERM)
      const after = mine()
      t.is(context.setEffectiveCapability(capability, 1), 0)
      t.deepEqual(after, limited, `without ${capability}, ${count} groups`)
      t.deepEqual(mine(), before)
    }
})

rootTest('restoreCredentials without a switch changes nothing', t => {
  const { context } = scene(t)
  const before = mine()
  t.is(context.restoreCredentials(), 0)
  t.is(context.restoreCredentials(), 0)
  t.deepEqual(mine(), before)
})

rootTest('pool threads never have the credentials of a caller', t => {
  const { context, folder } = scene(t)
  const path = join(folder, 'lock')
  writeFileSync(path, '')
  const holder = open(t, path, files.O_RDWR)
  const waiters = [0, 1, 2, 3].map(() => open(t, path, files.O_RDWR))
  t.is(context.flock(holder, 2), 0)
  t.teardown(() => void context.flock(holder, 8))
  const before = mine()
  const known = new Set(others().keys())
  setGroups(context, [GID + 1])
  // Each job blocks, so each starts a thread: two by the daemon, two by a caller.
  t.is(context.submit(PoolCall.flock, 0, waiters[0]!, 2), 0)
  t.is(context.setCredentials(UID, GID, GROUPS_AT, 1), 0)
  const answers = [1, 2].map(i => context.submit(PoolCall.flock, i, waiters[i]!, 2))
  t.is(context.restoreCredentials(), 0)
  t.deepEqual(answers, [0, 0])
  t.is(context.submit(PoolCall.flock, 3, waiters[3]!, 2), 0)
  const pool = (): Rights[] =>
    [...others()].flatMap(([task, rights]) => (known.has(task) ? [] : [rights]))
  const blocked = (): number =>
    [...others().keys()].filter(
      task =>
        !known.has(task) && readFileSync(`/proc/self/task/${task}/wchan`, 'utf8').includes('lock'),
    ).length
  const until = Date.now() + LONG_MS
  // A thread has its credentials when its job runs, not before.
  while (
    pool().filter(rights => rights.name === 'virtiofsd-pool').length < 4 &&
    Date.now() < until
  );
  // On a kernel that does not say where threads wait it is left at that.
  for (let i = 0; i < 1000 && blocked() < 4; i++)
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10)
  // The runtime may have started one of its own meanwhile.
  const threads = pool().filter(rights => rights.name === 'virtiofsd-pool')
  t.is(threads.length, 4)
  for (const rights of threads) t.deepEqual(rights, { ...before, name: 'virtiofsd-pool' })
  // Two at a time never hold the lock, so each must give it back.
  t.is(context.flock(holder, 8), 0)
  for (let i = 0; i < 4; i++) {
    const [[token, result]] = [...reapAll(context, 1)] as [[number, number]]
    t.is(result, 0)
    t.is(context.flock(waiters[token]!, 8), 0)
  }
})

rootTest('a job submitted by a caller runs with the daemon’s rights', t => {
  const { context } = scene(t)
  // RLIMIT_FSIZE, quotas and the like aside, what can be seen is clearing of set-id bits: a write by a
  // user without CAP_FSETID clears them.
  const folder = makeFolder(t)
  const path = join(folder, 'set-id')
  writeFileSync(path, 'x')
  chmodSync(path, 0o6755)
  const fd = open(t, path, files.O_RDWR)
  t.is(context.setCredentials(UID, GID, GROUPS_AT, -1), 0)
  const answer = context.submit(PoolCall.ftruncate, 1, fd, 5)
  t.is(context.restoreCredentials(), 0)
  t.is(answer, 0)
  t.deepEqual([...reapAll(context, 1)], [[1, 0]])
  t.is(statSync(path).mode & 0o7777, 0o6755)
})

rootTest('setEffectiveCapability: one capability of this thread, and its former state', t => {
  const { context, folder } = scene(t)
  const before = mine()
  const rest = others()
  t.is(context.setEffectiveCapability(CAP_CHOWN, 1), 1)
  t.is(context.setEffectiveCapability(CAP_CHOWN, 0), 1)
  t.is(context.setEffectiveCapability(CAP_CHOWN, 0), 0)
  const bits = BigInt(`0x${before.effective}`)
  t.is(BigInt(`0x${mine().effective}`), bits & ~1n)
  for (const [task, rights] of others())
    t.is(rights.effective, (rest.get(task) ?? rights).effective)
  const fd = open(t, join(folder, 'file'), files.O_RDWR | files.O_CREAT)
  t.is(context.chown(fd, UID, GID), -E.EPERM)
  t.is(context.setEffectiveCapability(CAP_CHOWN, 1), 0)
  t.is(context.chown(fd, UID, GID), 0)
  t.deepEqual(mine(), before)
  // A switched thread has no effective capabilities, and may raise what it is permitted.
  t.is(context.setCredentials(UID, GID, 0, -1), 0)
  const raised = context.setEffectiveCapability(CAP_DAC_OVERRIDE, 1)
  const again = context.setEffectiveCapability(CAP_DAC_OVERRIDE, 0)
  t.is(context.restoreCredentials(), 0)
  t.deepEqual([raised, again], [0, 1])
  t.deepEqual(mine(), before)
  for (const capability of [-1, 64, 0.5, Number.NaN, 2 ** 32])
    t.is(context.setEffectiveCapability(capability, 1), -E.EINVAL, `${capability}`)
  t.is(context.setEffectiveCapability(CAP_CHOWN, 0.5), -E.EINVAL)
  t.deepEqual(mine(), before)
})

test('umask is the process’ before unshareFs, the thread’s own after it', async t => {
  const before = process.umask()
  const answer = await inWorker(({ Context }) => {
    const context = new Context({ arenaBytes: 65536, maxSegments: 1, poolThreads: 1 })
    const first = context.umask(0o031)
    const shared = process.umask()
    context.umask(first)
    const unshared = context.unshareFs()
    if (unshared < 0) return { unshared }
    const own = context.umask(0o077)
    const now = context.umask(0o077)
    context.dispose()
    return { first, shared, unshared, own, now }
  })
  t.is(process.umask(), before, 'this thread still has its own')
  const value = answer as Record<string, number>
  if (value.unshared !== 0) {
    t.is(value.unshared, -E.EPERM)
    return
  }
  t.deepEqual(value, { first: before, shared: 0o031, unshared: 0, own: before, now: 0o077 })
})

test('after unshareFs nodes are still reached, and files get the thread’s umask', async t => {
  const folder = makeFolder(t)
  writeFileSync(join(folder, 'file'), 'content')
  const cwd = process.cwd()
  const answer = await inWorker(({ Context }, folder: string) => {
    const { closeSync, openSync, statSync } = process.getBuiltinModule('node:fs')
    const context = new Context({ arenaBytes: 65536, maxSegments: 1, poolThreads: 1 })
    const put = (at: number, name: string): number => {
      context.bytes.set(Buffer.from(`${name}\0`), at)
      return at
    }
    const dir = openSync(folder, 'r')
    const unshared = context.unshareFs()
    const twice = context.unshareFs()
    context.umask(0o027)
    const made = context.openat(dir, put(0, 'made'), 0o101, 0o777, 0)
    const node = context.openat(dir, put(0, 'file'), 0o10000000, 0, 0)
    const again = context.reopen(node, 0)
    const mode = context.chmod(node, 0o604)
    const name = put(100, 'user.x')
    const set = context.setxattr(node, name, 0, 3, 0)
    const times = context.utimens(node, 1, 0, 1, 0)
    const link = context.linkat(node, dir, put(0, 'linked'))
    const answer = {
      unshared,
      twice,
      made: made > 0,
      mode,
      set,
      times,
      link,
      size: again < 0 ? again : context.lseek(again, 0, 2),
      modes: ['made', 'file', 'linked'].map(file => statSync(`${folder}/${file}`).mode & 0o777),
    }
    for (const fd of [made, node, again, dir]) if (fd >= 0) closeSync(fd)
    context.dispose()
    return answer
  }, folder)
  const value = answer as Record<string, unknown>
  if (value.unshared === -E.EPERM) {
    t.false(ROOT)
    return
  }
  t.true(value.set === 0 || value.set === -E.EOPNOTSUPP)
  t.deepEqual(value, {
    unshared: 0,
    twice: 0,
    made: true,
    mode: 0,
    set: value.set,
    times: 0,
    link: 0,
    size: 7,
    modes: [0o750, 0o604, 0o604],
  })
  t.is(process.cwd(), cwd)
})
