/** A guest test without what it needs: a failure in CI, skipped elsewhere. */
import test from 'ava'

/** Registers `title` in that way; `why` says what is missing and what brings it. */
export function registerMissing(title: string, why: string): void {
  if (process.env.CI !== undefined) test(title, t => t.fail(why))
  else test.skip(`${title} (${why})`, () => undefined)
}
