/** Words behind the inodes' in the file that the processes of processes.test.ts share. */
export const Shared = {
  /** Not 0: they are to end. */
  stop: 0,
  /** How many have begun to work; what all have done so far. */
  begun: 1,
  checks: 2,
  changes: 3,
  conflicts: 4,
  words: 5,
} as const
