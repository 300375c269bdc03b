/** Ways for guests to cache, as arguments of their daemons; `table`: where those meet. */
const strict = (table: string): readonly string[] => [
  '--cache=auto',
  '--coherence=strict',
  `--version-table=${table}`,
]

export const MODES = {
  strict,
  'strict-0': (table: string): readonly string[] => [...strict(table), '--lease-ms=0'],
  auto: (): readonly string[] => ['--cache=auto'],
  never: (): readonly string[] => ['--cache=never'],
} as const
export type Mode = keyof typeof MODES
