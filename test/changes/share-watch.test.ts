/**
 * What the watch tells of a share that this process changes: the very events, one by one, and that who follows
 * them ends up knowing what is there. Changes of this process count as the guest's.
 */
import { execFileSync } from 'node:child_process'
import {
  appendFileSync,
  chmodSync,
  type Dirent,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import type { Change } from '../../protocol/control/messages.js'
import { ShareWatch } from '../../src/changes/share-watch.js'
import { changeLine } from '../../src/control/text.js'
import { until } from '../helpers/launch.js'

interface Scene {
  readonly share: string
  readonly outside: string
  readonly watch: ShareWatch
  readonly changes: Change[]
  /** How often events were lost, and what was told of directories. */
  readonly lost: number[]
  readonly told: (readonly [directories: number, unwatched: number])[]
  /** Where in the share. */
  at(path: string | Buffer): string | Buffer
  /** What was told since, as text, once the change of a file made for it was told. */
  lines(): Promise<string[]>
}

async function scene(t: ExecutionContext, prepare?: (share: string) => void): Promise<Scene> {
  const outside = realpathSync(mkdtempSync(join(tmpdir(), 'virtiofsd-watch-')))
  const share = join(outside, 'share')
  mkdirSync(share)
  prepare?.(share)
  const watch = ShareWatch.open()
  if (typeof watch === 'number') throw new Error(`fanotify: ${watch}`)
  t.teardown(() => {
    watch.close()
    rmSync(outside, { recursive: true, force: true })
  })
  watch.share(share)
  const changes: Change[] = []
  const lost: number[] = []
  const told: (readonly [number, number])[] = []
  watch.start({
    changed: (some, isLost) => {
      if (isLost) lost.push(changes.length)
      changes.push(...some)
    },
    watching: (directories, unwatched) => told.push([directories, unwatched]),
  })
  await until(() => told.length > 0)
  let mark = 0
  return {
    share,
    outside,
    watch,
    changes,
    lost,
    told,
    at: path =>
      typeof path === 'string'
        ? join(share, path)
        : Buffer.concat([Buffer.from(`${share}/`), path]),
    async lines() {
      const name = `.mark${mark++}`
      mkdirSync(join(share, name))
      await until(() => changes.some(({ path }) => String(path) === name))
      const before = changes.findIndex(({ path }) => String(path) === name)
      const lines = changes.slice(0, before).map(changeLine)
      changes.splice(0, before + 1)
      return lines.map(line => line.trimEnd().replaceAll('\t', ' '))
    },
  }
}

/** What is done, and what is told of it. */
const CASES: readonly (readonly [
  title: string,
  prepare: (share: string) => void,
  act: (scene: Scene) => void,
  lines: readonly string[],
])[] = [
  [
    'files made, written, and removed',
    share => writeFileSync(join(share, 'old'), ''),
    ({ at }) => {
      writeFileSync(at('f'), 'one')
      linkSync(at('f'), at('l'))
      symlinkSync('f', at('s'))
      unlinkSync(at('old'))
    },
    [
      'guest create file f',
      'guest modify file f',
      'guest create file l',
      'guest create file s',
      'guest delete file old',
    ],
  ],
  [
    'many writes of one file: one event',
    share => writeFileSync(join(share, 'f'), ''),
    ({ at }) => {
      for (let i = 0; i < 500; i++) appendFileSync(at('f'), 'x')
      truncateSync(at('f'), 3)
    },
    ['guest modify file f'],
  ],
  [
    'mode and times',
    share => {
      mkdirSync(join(share, 'd'))
      writeFileSync(join(share, 'd', 'f'), '')
    },
    ({ at }) => {
      chmodSync(at('d/f'), 0o600)
      utimesSync(at('d'), 1, 2)
      chmodSync(at(''), 0o700)
    },
    ['guest attrib file d/f', 'guest attrib directory d', 'guest attrib directory .'],
  ],
  [
    'renames, over something, of directories, and what happens under the new name',
    share => {
      mkdirSync(join(share, 'd', 'e'), { recursive: true })
      for (const name of ['f', 'g']) writeFileSync(join(share, name), '')
    },
    ({ at }) => {
      renameSync(at('f'), at('g'))
      renameSync(at('d'), at('D'))
      renameSync(at('g'), at('D/e/h'))
      appendFileSync(at('D/e/h'), 'x')
      renameSync(at('D/e'), at('e'))
      writeFileSync(at('e/new'), '')
    },
    [
      'guest rename file f g',
      'guest rename directory d D',
      'guest rename file g D/e/h',
      'guest modify file D/e/h',
      'guest rename directory D/e e',
      'guest create file e/new',
    ],
  ],
  [
    'what leaves the share is gone, and what comes into it is watched',
    share => mkdirSync(join(share, 'd', 'e'), { recursive: true }),
    ({ at, outside }) => {
      renameSync(at('d'), join(outside, 'd'))
      writeFileSync(join(outside, 'd', 'e', 'unseen'), '')
      renameSync(join(outside, 'd'), at('back'))
    },
    ['guest rename directory d -', 'guest rename directory - back'],
  ],
  [
    'directories made with all that is in them',
    () => undefined,
    ({ at }) => {
      mkdirSync(at('a/b/c'), { recursive: true })
      writeFileSync(at('a/b/c/f'), 'x')
      renameSync(at('a'), at('A'))
    },
    [
      'guest create directory a',
      'guest rename directory a A',
      'guest create directory A/b',
      'guest create directory A/b/c',
      'guest create file A/b/c/f',
    ],
  ],
  [
    'names are bytes',
    () => undefined,
    ({ at }) => {
      mkdirSync(at(Buffer.from('\xff\xfe', 'latin1')))
      writeFileSync(at('new\nline\t\x1b[1m\\'), '')
      writeFileSync(at('größe'), '')
      writeFileSync(at('-'), '')
      writeFileSync(at('a\u202eb'), '')
    },
    [
      'guest create directory \\xff\\xfe',
      'guest create file new\\x0aline\\x09\\x1b[1m\\x5c',
      'guest create file größe',
      'guest create file ./-',
      'guest create file a\\xe2\\x80\\xaeb',
    ],
  ],
  [
    'a name that came and went is told last as it is now',
    share => writeFileSync(join(share, 'there'), ''),
    ({ at }) => {
      linkSync(at('there'), at('gone'))
      unlinkSync(at('gone'))
      linkSync(at('there'), at('back'))
      unlinkSync(at('back'))
      linkSync(at('there'), at('back'))
    },
    [
      'guest create file gone',
      'guest delete file gone',
      'guest delete file back',
      'guest create file back',
    ],
  ],
]

for (const [title, prepare, act, lines] of CASES)
  test(title, async t => {
    const one = await scene(t, prepare)
    act(one)
    t.deepEqual(await one.lines(), lines)
    t.deepEqual(one.lost, [])
  })

test('what another process does is told as of others', async t => {
  const one = await scene(t)
  execFileSync('touch', [one.at('f') as string])
  t.deepEqual((await one.lines())[0], 'other create file f')
})

test('what came into the share is watched from then on', async t => {
  const one = await scene(t)
  mkdirSync(join(one.outside, 'd', 'e'), { recursive: true })
  renameSync(join(one.outside, 'd'), one.at('d'))
  t.deepEqual(await one.lines(), ['guest rename directory - d'])
  writeFileSync(one.at('d/e/f'), '')
  t.deepEqual(await one.lines(), ['guest create file d/e/f'])
})

test('after stop nothing is told, and nothing of it after the next start', async t => {
  const one = await scene(t)
  one.watch.stop()
  t.is(one.watch.counters.watchedDirectories, 0)
  writeFileSync(one.at('unseen'), '')
  one.watch.start({
    changed: some => one.changes.push(...some),
    watching: (directories, unwatched) => one.told.push([directories, unwatched]),
  })
  await until(() => one.told.length === 2)
  writeFileSync(one.at('seen'), '')
  t.deepEqual(await one.lines(), ['guest create file seen'])
})

const asRoot = process.geteuid?.() === 0 ? test : test.skip
asRoot('a directory seen by two ways, or one within itself, is told by one path', async t => {
  const one = await scene(t, share => {
    mkdirSync(join(share, 'a', 'b'), { recursive: true })
    execFileSync('mount', ['--bind', share, join(share, 'a', 'b')])
  })
  t.teardown(() => execFileSync('umount', ['-l', one.at('a/b') as string]))
  t.deepEqual(one.told, [[2, 0]])
  writeFileSync(one.at('a/b/f'), '')
  t.deepEqual(await one.lines(), ['guest create file f'])
})

/** A tree as text. */
function treeOf(folder: string): string[] {
  const listed = readdirSync(folder, { withFileTypes: true, recursive: true })
  return listed.map((entry: Dirent) => join(entry.parentPath, entry.name)).sort()
}

/** What somebody knows who looks where the changes tell him to. */
class Follower {
  readonly known: Set<string>
  readonly #share: string

  constructor(share: string) {
    this.#share = share
    this.known = new Set(treeOf(share))
  }

  follow({ kind, path, to }: Change): void {
    if (kind === 'modify' || kind === 'attrib') return
    for (const one of [path, to]) if (one !== undefined) this.#look(join(this.#share, String(one)))
  }

  #look(path: string): void {
    for (const one of this.known) if (one.startsWith(`${path}/`)) this.known.delete(one)
    this.known.delete(path)
    let isDirectory: boolean
    try {
      isDirectory = lstatSync(path).isDirectory()
    } catch {
      return
    }
    this.known.add(path)
    if (isDirectory) for (const one of treeOf(path)) this.known.add(one)
  }
}

/** One random change; those that cannot be are left out. */
function mutate(share: string, outside: string, random: (below: number) => number): void {
  const name = (): string => {
    const depth = 1 + random(4)
    return join(share, ...Array.from({ length: depth }, () => 'abc'[random(3)]!))
  }
  const acts: (() => void)[] = [
    () => writeFileSync(name(), 'x'),
    () => mkdirSync(name(), { recursive: true }),
    () => unlinkSync(name()),
    () => rmdirSync(name()),
    () => rmSync(name(), { recursive: true }),
    () => renameSync(name(), name()),
    () => renameSync(name(), name()),
    () => linkSync(name(), name()),
    () => renameSync(name(), join(outside, String(random(3)))),
    () => renameSync(join(outside, String(random(3))), name()),
  ]
  try {
    acts[random(acts.length)]!()
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).syscall === undefined) throw cause
  }
}

test('who looks where the changes tell him knows the whole tree: random ones, whose number is ROUNDS times 50', async t => {
  t.timeout(600_000)
  const seed = Number(process.env.SEED ?? Date.now() % 1_000_000)
  t.log(`SEED=${seed}`)
  let state = seed + 1
  const random = (below: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  const one = await scene(t)
  const follower = new Follower(one.share)
  let followed = 0
  const follow = (): void => {
    for (const change of one.changes.splice(0)) {
      follower.follow(change)
      followed++
    }
  }
  const rounds = Number(process.env.ROUNDS ?? 60)
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < 50; i++) {
      mutate(one.share, one.outside, random)
      // In some rounds the reader keeps up, in others it sees all at once.
      if (random(round % 2 === 0 ? 10 : 1000) > 0) continue
      await new Promise(done => setTimeout(done, random(60)))
      follow()
    }
    const mark = `mark${round}`
    mkdirSync(one.at(mark))
    await until(() => one.changes.some(({ path }) => String(path) === mark))
    follow()
    t.deepEqual([...follower.known].sort(), treeOf(one.share), `round ${round}`)
  }
  t.true(followed > rounds * 10, `${followed} changes`)
  t.deepEqual(one.lost, [])
})

test('when the kernel drops events it is told, once all is watched again', async t => {
  const one = await scene(t, share => mkdirSync(join(share, 'd')))
  // More than the queue holds, before it is read.
  const most = Number(readFileSync('/proc/sys/fs/fanotify/max_queued_events', 'utf8'))
  for (let i = 0; i <= most; i++) writeFileSync(one.at(`d/f${i}`), '')
  mkdirSync(one.at('unseen'))
  await until(() => one.lost.length === 1)
  await one.lines()
  writeFileSync(one.at('unseen/f'), '')
  t.deepEqual(await one.lines(), ['guest create file unseen/f'])
})
