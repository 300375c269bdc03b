/** What a daemon says of itself on its control socket. */
import type { ControlReply, Status } from '../../protocol/control/messages.js'
import { ControlClient } from '../../src/control/client.js'

/** Its counters; empty when it gives none. */
export async function countersOf(path: string): Promise<Status['counters']> {
  let answer: ControlReply | undefined
  const client = new ControlClient(path, 'status', reply => {
    answer = reply
    client.close()
  })
  await client.ended
  return answer?.type === 'status' ? answer.counters : {}
}
