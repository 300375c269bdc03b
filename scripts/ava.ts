/**
 * ava, for scripts that read its TAP. When tests time out its reporter (7.0.0, lib/reporters/tap.js, writeTimeout) ends
 * with a TypeError before it has said which: it takes its own error for one that a test process has sent.
 */
Object.defineProperty(Error.prototype, 'originalError', {
  configurable: true,
  get(this: Error): Error {
    return this
  },
})
await import(new URL('../../node_modules/ava/entrypoints/cli.mjs', import.meta.url).href)
