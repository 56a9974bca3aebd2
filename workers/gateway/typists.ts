/**
 * Who is typing through this gateway's connections, so that it ends by itself: when nothing more is heard of it, and when the
 * connection is gone. A client says that it types every few seconds while it does.
 */

/** Silence for so long ends it. */
export const TYPING_MS = 6_000;
/** Conversations that one connection types in at once; beyond it the oldest has ended. */
const TYPING_MAX = 10;

/** `S` is a session. */
export class Typists<S extends object> {
  private readonly bySession = new Map<S, Map<string, number>>();

  /** Notes it, and names the conversations in which the connection has stopped typing by it. */
  note(session: S, conversation: string, on: boolean, nowMs: number): string[] {
    const own = this.bySession.get(session) ?? new Map<string, number>();
    own.delete(conversation);
    if (on) own.set(conversation, nowMs + TYPING_MS);
    if (own.size === 0) this.bySession.delete(session);
    else this.bySession.set(session, own);
    if (own.size <= TYPING_MAX) return [];
    const [oldest] = own.keys();
    own.delete(oldest!);
    return [oldest!];
  }

  isTyping(session: S, conversation: string): boolean {
    return this.bySession.size > 0 && this.bySession.get(session)?.has(conversation) === true;
  }

  /** Those whose time is over; they are noted no more. */
  expired(nowMs: number): [session: S, conversation: string][] {
    const over: [S, string][] = [];
    for (const [session, own] of this.bySession) {
      for (const [conversation, until] of own) if (until <= nowMs) over.push([session, conversation]);
    }
    for (const [session, conversation] of over) this.note(session, conversation, false, nowMs);
    return over;
  }

  /** The connection is gone: where it was typing. */
  end(session: S): string[] {
    const own = this.bySession.get(session);
    this.bySession.delete(session);
    return [...(own?.keys() ?? [])];
  }
}
