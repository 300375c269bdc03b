/** Pieces of layouts for `struct()`: a struct inside another one, and arrays. */
import type { Scalar } from './struct.js'

// biome-ignore lint/suspicious/noExplicitAny: layouts mix number and bigint scalars
type AnyLayout = Record<string, Scalar<any>>
type Prefixed<P extends string, L> = { readonly [K in keyof L & string as `${P}${K}`]: L[K] }

/** The fields of a struct inside another one: `nested('attr_', fuse_attr.LAYOUT)` has `attr_ino`... */
export function nested<const P extends string, const L extends AnyLayout>(
  prefix: P,
  layout: L,
): Prefixed<P, L> {
  const renamed = Object.entries(layout).map(([name, scalar]) => [`${prefix}${name}`, scalar])
  return Object.fromEntries(renamed) as Prefixed<P, L>
}

/** A C array of scalars: `array('unused', u32, 11)` has the fields `unused0` to `unused10`. */
export function array<const N extends string, T>(
  name: N,
  scalar: Scalar<T>,
  length: number,
): Readonly<Record<`${N}${number}`, Scalar<T>>> {
  const fields = Array.from({ length }, (_, index) => [`${name}${index}`, scalar])
  return Object.fromEntries(fields) as Readonly<Record<`${N}${number}`, Scalar<T>>>
}
