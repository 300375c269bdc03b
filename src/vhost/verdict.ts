/** What handlers of messages say. */

/** Done (reply if asked), replied already, or why the message is refused. */
export type Verdict = 'done' | 'replied' | { readonly refuse: string }

export const refuse = (reason: string): Verdict => ({ refuse: reason })

/** What a handler says that has just sent its reply, or tried to. */
export const replied = (sent: boolean): Verdict =>
  sent ? 'replied' : refuse('the front end does not take the reply')
