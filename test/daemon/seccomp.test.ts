/** The system-call filter: its numbers against C, and what it does to a real process of Node's. */
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { AUDIT_ARCH, SYSCALLS } from '../../protocol/linux/syscalls.js'
import { type Machine, seccompProgram, thisMachine } from '../../src/daemon/seccomp.js'
import { packageFile } from '../../src/native/addon.js'
import type { Answers, Call, Where, Work } from './seccomp-child.js'

const CC = process.env.CC ?? 'cc'
const folder = mkdtempSync(join(tmpdir(), 'virtiofsd-seccomp-'))
test.after.always(() => rmSync(folder, { recursive: true }))

function compile(source: string, out: string, options: readonly string[]): void {
  const { error, status, stderr } = spawnSync(CC, ['-o', out, ...options, source], {
    encoding: 'utf8',
  })
  if (error !== undefined || status !== 0) throw new Error(`${CC}: ${error ?? stderr}`)
}

// --- numbers ------------------------------------------------------------------------------------------

/** What C calls the numbers `names`; those its headers do not know are left out. */
function numbersOfC(headers: string, names: readonly string[]): Map<string, number> {
  const lines = names.map(
    name => `#ifdef __NR_${name}\nprintf("${name} %d\\n", (int)__NR_${name});\n#endif`,
  )
  const source = join(folder, 'numbers.c')
  writeFileSync(
    source,
    `${headers}\n#include <stdio.h>\nint main(void) {\n${lines.join('\n')}\nreturn 0; }\n`,
  )
  compile(source, join(folder, 'numbers'), ['-w'])
  const { stdout } = spawnSync(join(folder, 'numbers'), { encoding: 'utf8' })
  return new Map(
    stdout
      .trimEnd()
      .split('\n')
      .map(line => [line.split(' ')[0]!, Number(line.split(' ')[1])]),
  )
}

/** As arch/arm64/include/uapi/asm/unistd.h. */
const ARM64 = `
#define __ARCH_WANT_RENAMEAT
#define __ARCH_WANT_NEW_STAT
#define __ARCH_WANT_SET_GET_RLIMIT
#define __ARCH_WANT_TIME32_SYSCALLS
#define __ARCH_WANT_SYS_CLONE3
#define __ARCH_WANT_MEMFD_SECRET
#include <asm-generic/unistd.h>`
const HEADERS: Readonly<Record<Machine, string>> = {
  x64: '#include <asm/unistd_64.h>',
  arm64: ARM64,
}
/** Younger than the headers of Debian 12. */
const YOUNG = ['fchmodat2']

for (const machine of Object.keys(AUDIT_ARCH) as Machine[])
  test(`the numbers of ${machine} are those of C`, t => {
    if (machine === 'x64' && process.arch !== 'x64') {
      t.pass('its header is not here')
      return
    }
    const names = Object.keys(SYSCALLS)
    const c = numbersOfC(HEADERS[machine], names)
    for (const name of names) {
      if (YOUNG.includes(name) && !c.has(name)) continue
      t.is(SYSCALLS[name]![machine], c.get(name), name)
    }
    t.true(c.size > 100)
  })

test('the program is small, and made for each machine', t => {
  for (const machine of Object.keys(AUDIT_ARCH) as Machine[]) {
    const instructions = seccompProgram(machine, 'kill', 1).length / 8
    t.true(instructions > 200 && instructions < 1024, `${machine}: ${instructions}`)
  }
})

// --- a process under it -------------------------------------------------------------------------------

let probeFile: string | undefined
function probe(): string {
  if (probeFile === undefined) {
    probeFile = join(folder, 'probe.node')
    compile(packageFile('test', 'daemon', 'seccomp-probe.c'), probeFile, [
      '-shared',
      '-fPIC',
      '-pthread',
    ])
  }
  return probeFile
}

interface Outcome {
  readonly status: number | NodeJS.Signals
  readonly answers: Answers | undefined
  readonly stderr: string
}

function run(work: Partial<Work>): Promise<Outcome> {
  const whole: Work = {
    probe: probe(),
    action: 'kill',
    catchTraps: false,
    where: 'main',
    calls: [],
    oldGate: false,
    busy: false,
    ...work,
  }
  const program = packageFile('dist', 'test', 'daemon', 'seccomp-child.js')
  const child = spawn(process.execPath, ['--expose-gc', program, JSON.stringify(whole)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  return new Promise(done => {
    child.on('close', (status, signal) =>
      done({
        status: status ?? signal!,
        answers: stdout === '' ? undefined : (JSON.parse(stdout) as Answers),
        stderr,
      }),
    )
  })
}

const OTHER = process.pid
const SELF = 0
const call = (numbers: Map<string, number>, name: string, args: readonly number[]): Call => {
  const number = numbers.get(name)
  if (number === undefined) throw new Error(`no ${name} here`)
  return { number, args }
}
const CLONE_VM_SIGHAND_THREAD = 0x100 | 0x800 | 0x10000
const CLONE_NEWNS = 0x20000
const CLONE_NEWUSER = 0x10000000
const CLONE_NEWNET = 0x40000000
const SIGCHLD = 17

/** Trapped on every thread. None of them would do harm if it passed. */
const FORBIDDEN: readonly (readonly [name: string, ...args: number[]])[] = [
  // Signals to, and looks into, others.
  ['kill', OTHER, 0],
  ['tkill', OTHER, 0],
  ['tgkill', OTHER, OTHER, 0],
  ['rt_sigqueueinfo', OTHER, 0, 0],
  ['pidfd_open', OTHER, 0],
  ['pidfd_send_signal', -1, 0, 0, 0],
  ['pidfd_getfd', -1, 0, 0],
  ['ptrace', 16, OTHER, 0, 0],
  ['process_vm_readv', OTHER, 0, 0, 0, 0, 0],
  ['process_vm_writev', OTHER, 0, 0, 0, 0, 0],
  ['process_madvise', -1, 0, 0, 0, 0],
  ['kcmp', OTHER, OTHER, 0, 0, 0],
  ['prlimit64', OTHER, 7, 0, 0],
  ['sched_setaffinity', OTHER, 0, 0],
  ['fcntl', 2, 8, OTHER], // F_SETOWN
  ['fcntl', 2, 10, 9], // F_SETSIG
  ['fcntl', 2, 15, 0], // F_SETOWN_EX
  ['fcntl', 2, 1024, 0], // F_SETLEASE
  // Other programs and processes.
  ['execve', 0, 0, 0],
  ['execveat', -1, 0, 0, 0, 0],
  ['clone', SIGCHLD | CLONE_NEWUSER, 0, 0, 0, 0],
  ['clone', CLONE_VM_SIGHAND_THREAD | CLONE_NEWNS, 0, 0, 0, 0],
  ['clone', CLONE_VM_SIGHAND_THREAD | CLONE_NEWNET, 0, 0, 0, 0],
  ['seccomp', 0, 1, 0],
  ['prctl', 4, 0, 0, 0, 0], // PR_SET_DUMPABLE
  ['prctl', 22, 9, 0, 0, 0], // PR_SET_SECCOMP
  ['prctl', 8, 1, 0, 0, 0], // PR_SET_KEEPCAPS
  ['personality', 0xffffffff],
  // Other namespaces and roots.
  ['unshare', CLONE_NEWUSER],
  ['unshare', CLONE_NEWNS],
  ['unshare', CLONE_NEWUSER | 0x200],
  ['setns', -1, 0],
  ['chroot', 0],
  ['pivot_root', 0, 0],
  ['mount', 0, 0, 0, 0, 0],
  ['umount2', 0, 0],
  ['open_tree', -1, 0, 0],
  ['move_mount', -1, 0, -1, 0, 0],
  ['fsopen', 0, 0],
  ['fsmount', -1, 0, 0],
  ['mount_setattr', -1, 0, 0, 0, 0],
  // Other users.
  ['setuid', -1],
  ['setgid', -1],
  ['setreuid', -1, -1],
  ['setfsuid', -1],
  // Ways to the kernel.
  ['bpf', -1, 0, 0],
  ['perf_event_open', 0, 0, 0, 0, 0],
  ['userfaultfd', -1],
  ['keyctl', -1, 0, 0, 0, 0],
  ['add_key', 0, 0, 0, 0, 0],
  ['request_key', 0, 0, 0, 0],
  ['init_module', 0, 0, 0],
  ['finit_module', -1, 0, 0],
  ['kexec_load', 0, 0, 0, 0],
  ['io_uring_enter', -1, 0, 0, 0, 0],
  ['io_uring_register', -1, 0, 0, 0],
  ['io_setup', 0, 0],
  ['fanotify_init', 0xffffffff, 0],
  ['quotactl', 0, 0, 0, 0],
  ['syslog', 10, 0, 0],
  ['acct', 1],
  ['settimeofday', 0, 0],
  ['sethostname', 0, 0],
  ['swapon', 0, 0],
  ['vhangup', 1 << 30],
  // The network, System V, terminals.
  ['bind', -1, 0, 0],
  ['listen', -1, 0],
  ['socketpair', 0, 0, 0, 0],
  ['shmget', 0, 0, 0],
  ['msgget', -1, 0],
  ['ioctl', 0, 0x5412, 0], // TIOCSTI
  ['ioctl', 0, 0x4008_6609, 0],
]
const X64_ONLY: readonly (readonly [name: string, ...args: number[]])[] = [
  ['fork'],
  ['vfork'],
  ['chmod', 0, 0],
  ['chown', 0, 0, 0],
  ['mknod', 0, 0, 0],
  ['rename', 0, 0],
  ['iopl', 4],
  ['ioperm', 0, 0, 0],
  ['modify_ldt', 99, 0, 0],
]

const EPERM = -1
const ENOSYS = -38
/** Answered without being done, so that the caller does something else. */
const REFUSED: readonly (readonly [name: string, args: readonly number[], answer: number])[] = [
  ['socket', [1, 1, 0], EPERM],
  ['socket', [2, 1, 0], EPERM],
  ['connect', [-1, 0, 0], EPERM],
  ['clone3', [0, 0], ENOSYS],
  ['io_uring_setup', [1, 0], ENOSYS],
  ['sched_setscheduler', [0, 0, 0], EPERM],
]
const EBADF = -9
const EINVAL = -22
const EFAULT = -14
/** The same calls with arguments that are needed. */
const ALLOWED: readonly (readonly [name: string, args: readonly number[], answer: number])[] = [
  ['unshare', [0x200], 0],
  ['prctl', [15, 0, 0, 0, 0], EFAULT],
  ['prlimit64', [SELF, 7, 0, 0], 0],
  ['ioctl', [-1, 0x80086601, 0], EBADF],
  ['fcntl', [-1, 1, 0], EBADF],
  ['clone', [CLONE_VM_SIGHAND_THREAD & ~0x100, 0, 0, 0, 0], EINVAL],
  ['openat', [-1, 0, 0, 0], EFAULT],
]

const machine = thisMachine()
const testHere = machine === undefined ? test.skip : test
const forbidden = process.arch === 'x64' ? [...FORBIDDEN, ...X64_ONLY] : FORBIDDEN
const numbers = (): Map<string, number> =>
  numbersOfC(
    '#include <asm/unistd.h>',
    [...forbidden, ...REFUSED, ...ALLOWED].map(([name]) => name),
  )
const WHERE: readonly Where[] = ['main', 'worker', 'thread']

for (const where of WHERE) {
  testHere(`forbidden calls do not happen: on ${where}`, async t => {
    const known = numbers()
    const present = forbidden.filter(([name]) => known.has(name))
    t.true(present.length > 60)
    const { status, answers, stderr } = await run({
      action: 'trap',
      catchTraps: true,
      where,
      calls: present.map(([name, ...args]) => call(known, name, args)),
    })
    t.is(status, 0, stderr)
    for (const [i, [name, ...args]] of present.entries())
      t.is(answers![i], null, `${name}(${args.join(', ')})`)
  })

  testHere(`calls refused with an errno, and allowed ones: on ${where}`, async t => {
    const known = numbers()
    const rows = [...REFUSED, ...ALLOWED]
    const { status, answers, stderr } = await run({
      where,
      calls: rows.map(([name, args]) => call(known, name, args)),
    })
    t.is(status, 0, stderr)
    for (const [i, [name, args, wanted]] of rows.entries())
      t.is(answers![i], wanted, `${name}(${args.join(', ')})`)
  })
}

/** kill(2) of this process with signal 0. */
const look = (): readonly Call[] => [call(numbers(), 'kill', [OTHER, 0])]

for (const where of [...WHERE, 'pool'] as const)
  for (const [action, wanted] of [
    ['kill', 'SIGSYS'],
    ['trap', 'SIGSYS'],
    ['log', 0],
  ] as const)
    testHere(
      `--seccomp=${action}, a violation on ${where}: ${wanted === 0 ? 'it lives' : 'the process dies'}`,
      async t => {
        const { status, answers, stderr } = await run({ action, where, calls: look() })
        t.is(status, wanted, stderr)
        if (wanted === 0) t.deepEqual(answers, [where === 'pool' ? -2 : 0], 'the call is made')
        else t.is(answers, undefined)
      },
    )

testHere('the gates of other architectures are shut', async t => {
  if (process.arch !== 'x64') {
    t.pass('there is one')
    return
  }
  const own = await run({ action: 'log', oldGate: true })
  const gate = await run({ oldGate: true })
  // A kernel without 32-bit programs ends it by itself.
  t.is(gate.status, own.status === 0 ? 'SIGSYS' : 'SIGSEGV')
  const x32 = await run({ calls: [{ number: 0x4000_0000 + 39, args: [] }] })
  t.is(x32.status, 'SIGSYS')
})

testHere('ordinary work goes on: memory, timers, new threads', async (t: ExecutionContext) => {
  const { status, answers, stderr } = await run({ busy: true })
  t.is(status, 0, stderr)
  t.deepEqual(answers, [])
})
