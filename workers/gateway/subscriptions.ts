/**
 * Which of this gateway's connections hear which channel. Logic tells it twice: all of a user's channels when the route is
 * written, and what changes afterwards with the channel's own frames, in their order. What comes while the route is being written
 * is noted, for the answer may be older.
 */

/** Changes noted per session, of channels that it came into or left since it opened. Beyond it the oldest is forgotten. */
const CHANGES_MAX = 1_000;

interface Change {
  /** Of the entry that told of it. */
  readonly seq: number;
  readonly isIn: boolean;
}

interface State {
  readonly channels: Set<string>;
  /** Since the route was written last, or is being written. */
  changes: Map<string, Change>;
}

/** `S` is a session. */
export class Subscriptions<S extends object> {
  private readonly sessions = new Map<S, State>();
  private readonly byChannel = new Map<string, Set<S>>();

  /** The route is about to be written: from now on changes are newer than what the answer will say. */
  begin(session: S): void {
    const state = this.sessions.get(session);
    if (state) state.changes = new Map();
    else this.sessions.set(session, { channels: new Set(), changes: new Map() });
  }

  /** What the answer said, with the changes that came meanwhile. */
  settle(session: S, channels: readonly string[]): void {
    const state = this.sessions.get(session);
    // Closed meanwhile.
    if (!state) return;
    const wanted = new Set(channels);
    for (const [channel, { isIn }] of state.changes) {
      if (isIn) wanted.add(channel);
      else wanted.delete(channel);
    }
    for (const channel of [...state.channels]) if (!wanted.has(channel)) this.leave(session, state, channel);
    for (const channel of wanted) this.enter(session, state, channel);
  }

  /** An entry took the session's user in or out. One that is older than what is known changes nothing. */
  change(session: S, channel: string, seq: number, isIn: boolean): void {
    const state = this.sessions.get(session);
    if (!state || (state.changes.get(channel)?.seq ?? -1) >= seq) return;
    if (state.changes.size >= CHANGES_MAX) state.changes.delete(state.changes.keys().next().value!);
    state.changes.delete(channel);
    state.changes.set(channel, { seq, isIn });
    if (isIn) this.enter(session, state, channel);
    else this.leave(session, state, channel);
  }

  of(channel: string): Iterable<S> {
    return this.byChannel.get(channel) ?? NOBODY;
  }

  end(session: S): void {
    const state = this.sessions.get(session);
    if (!state) return;
    for (const channel of [...state.channels]) this.leave(session, state, channel);
    this.sessions.delete(session);
  }

  /** Frames were lost, and who left with them: nobody hears anything until the routes are written again. */
  clear(): void {
    this.byChannel.clear();
    for (const state of this.sessions.values()) {
      state.channels.clear();
      state.changes.clear();
    }
  }

  private enter(session: S, state: State, channel: string): void {
    state.channels.add(channel);
    const subscribers = this.byChannel.get(channel);
    if (subscribers) subscribers.add(session);
    else this.byChannel.set(channel, new Set([session]));
  }

  private leave(session: S, state: State, channel: string): void {
    state.channels.delete(channel);
    const subscribers = this.byChannel.get(channel);
    subscribers?.delete(session);
    if (subscribers?.size === 0) this.byChannel.delete(channel);
  }
}

const NOBODY: readonly never[] = [];
