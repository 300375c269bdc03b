/** A bar chart of ratios as SVG text: one group a row, one bar a series, on a logarithmic scale around 1. */

export interface BarGroup {
  readonly label: string
  /** One value for each series; NaN leaves the bar out. */
  readonly values: readonly number[]
}

export interface BarChart {
  readonly title: string
  readonly caption: string
  readonly series: readonly string[]
  readonly groups: readonly BarGroup[]
  /** True: above 1 is good. */
  readonly moreIsBetter: boolean
}

const GOOD = ['#1b7837', '#5aae61', '#a6dba0', '#d9f0d3'] as const
const BAD = ['#762a83', '#9970ab', '#c2a5cf', '#e7d4e8'] as const
const GROUP_PX = 46
const PLOT_PX = 300
const LEFT_PX = 60
const TOP_PX = 70
const BOTTOM_PX = 150
const TICKS = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20] as const

export function barChart(chart: BarChart): string {
  const values = chart.groups.flatMap(group => group.values).filter(Number.isFinite)
  const reach = Math.min(20, Math.max(2, ...values.map(value => Math.max(value, 1 / value))) * 1.1)
  const y = (value: number): number => {
    const within = Math.min(reach, Math.max(1 / reach, value))
    return TOP_PX + (PLOT_PX / 2) * (1 - Math.log(within) / Math.log(reach))
  }
  const width = LEFT_PX + chart.groups.length * GROUP_PX + 20
  const height = TOP_PX + PLOT_PX + BOTTOM_PX
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="11">`,
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    label(LEFT_PX, 22, chart.title, 'font-size="15"'),
    label(LEFT_PX, 40, chart.caption, 'fill="#555"'),
  ]
  for (const [i, name] of chart.series.entries()) {
    const x = LEFT_PX + i * 110
    parts.push(rectangle(x, 50, 10, 10, GOOD[i % GOOD.length]!))
    parts.push(rectangle(x + 11, 50, 10, 10, BAD[i % BAD.length]!))
    parts.push(label(x + 25, 59, name))
  }
  for (const tick of TICKS) {
    if (tick > reach || tick < 1 / reach) continue
    const at = y(tick)
    parts.push(
      `<line x1="${LEFT_PX}" x2="${width - 10}" y1="${px(at)}" y2="${px(at)}" stroke="${tick === 1 ? '#000' : '#ddd'}"/>`,
      label(LEFT_PX - 6, at + 4, `${tick}x`, 'text-anchor="end"'),
    )
  }
  const bar = (GROUP_PX - 10) / chart.series.length
  for (const [g, group] of chart.groups.entries()) {
    const x = LEFT_PX + g * GROUP_PX + 5
    for (const [i, value] of group.values.entries()) {
      if (!Number.isFinite(value)) continue
      const good = chart.moreIsBetter ? value >= 1 : value <= 1
      const top = Math.min(y(value), y(1))
      const tall = Math.max(1, Math.abs(y(value) - y(1)))
      const colour = (good ? GOOD : BAD)[i % GOOD.length]!
      const tip = `${group.label}, ${chart.series[i]}: ${value.toFixed(2)}`
      parts.push(rectangle(x + i * bar, top, bar - 1, tall, colour, tip))
    }
    const under = TOP_PX + PLOT_PX + 12
    const middle = x + (GROUP_PX - 10) / 2
    parts.push(
      label(
        middle,
        under,
        group.label,
        `text-anchor="end" transform="rotate(-55 ${px(middle)} ${under})"`,
      ),
    )
  }
  return `${parts.join('\n')}\n</svg>\n`
}

function px(value: number): string {
  return value.toFixed(1)
}
function label(x: number, y: number, text: string, attributes = ''): string {
  return `<text x="${px(x)}" y="${px(y)}" ${attributes}>${escapeXml(text)}</text>`
}
function rectangle(x: number, y: number, w: number, h: number, fill: string, tip?: string): string {
  const size = `x="${px(x)}" y="${px(y)}" width="${px(w)}" height="${px(h)}" fill="${fill}"`
  return tip === undefined
    ? `<rect ${size}/>`
    : `<rect ${size}><title>${escapeXml(tip)}</title></rect>`
}
function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
