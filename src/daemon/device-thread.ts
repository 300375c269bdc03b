/** The device thread as the main thread sees it: it is started early, runs once, and says what happens. */
import { Worker } from 'node:worker_threads'
import type { ThreadMessage, ThreadOptions, ThreadStart, ThreadStatus } from '../device/thread.js'
import { native } from '../native/addon.js'
import type { Log } from '../vhost/log.js'

/** Launchers wait for it, and must see it once: Kata's stops reading at the second one. */
/** The thread may be busy with a file system that hangs. */
const STATUS_LIMIT_MS = 2000

const READY = 'Waiting for vhost-user socket connection...'

export class DeviceThread {
  readonly #worker: Worker
  readonly #loaded: Promise<void>
  #saidReady = false
  #status = 0
  #statusFd = -1
  #connected = false
  #tellStatus: ((status: ThreadStatus) => void) | undefined

  /** Starts the thread, which takes longer than anything else at the start: do the rest meanwhile. */
  constructor(start: ThreadStart) {
    this.#worker = new Worker(new URL('../device/thread.js', import.meta.url), {
      workerData: start,
    })
    this.#loaded = new Promise((done, failed) => {
      this.#worker.once('message', () => done())
      this.#worker.once('error', failed)
    })
    // A failure is for who waits, and a thread nobody waits for does not keep the process.
    this.#loaded.catch(() => undefined)
    this.#worker.unref()
  }

  /** Waits until the thread has all its code and wants to `run`. A start that fails then just ends. */
  async loaded(): Promise<void> {
    this.#worker.ref()
    await this.#loaded
    this.#worker.unref()
  }

  /** After `loaded`: lets it serve, until its end. Returns the exit status. */
  run(options: ThreadOptions, log: Log): Promise<number> {
    const worker = this.#worker
    worker.ref()
    worker.on('message', (message: ThreadMessage) => this.#take(message, log))
    worker.on('error', cause => {
      log(
        'error',
        `the device thread failed: ${cause instanceof Error ? cause.stack : String(cause)}`,
      )
      this.#status = 1
    })
    this.#statusFd = options.statusFd
    worker.postMessage(options)
    return new Promise(done => {
      worker.on('exit', () => done(this.#status))
    })
  }

  /** A front end is being served. */
  get connected(): boolean {
    return this.#connected
  }

  /** Undefined: no front end is connected, or the thread does not answer. */
  status(): Promise<ThreadStatus | undefined> {
    if (!this.#connected || this.#statusFd < 0) return Promise.resolve(undefined)
    return new Promise(done => {
      const late = setTimeout(() => done(undefined), STATUS_LIMIT_MS)
      this.#tellStatus = status => {
        clearTimeout(late)
        done(status)
      }
      native.eventWrite(this.#statusFd)
    })
  }

  #take(message: ThreadMessage, log: Log): void {
    switch (message.type) {
      case 'log':
        log(message.level, message.message)
        break
      case 'ready':
        log('info', this.#saidReady ? 'listening again for the next front end' : READY)
        this.#saidReady = true
        break
      case 'connected':
        this.#connected = true
        log('info', 'the front end is connected')
        break
      case 'status':
        this.#tellStatus?.(message.status)
        break
      case 'ended':
        this.#connected = false
        if (message.violation === '') log('info', 'the front end is gone')
        else {
          log('error', message.violation)
          this.#status = 1
        }
    }
  }
}
