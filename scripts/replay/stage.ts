/**
 * One file's conversation while it is played: what was committed, where each member stands, and what members received that they
 * should not have. Every member's entries are compared here with what the first of them received, and that with what was sent
 * when the run is over; so evidence grows with the log, not with log times members.
 */

import type { Entry } from "../../lib/client/index.ts";
import type { Latencies } from "../load/latencies.ts";

/** A message as it was acknowledged. */
export interface Line {
  readonly seq: number;
  readonly id: string;
  readonly from: string;
  readonly text: string;
}

/** What a member's client may have got wrong; 0 in health. */
export interface Faults {
  lost: number;
  doubled: number;
  reordered: number;
  different: number;
  /** Received without being a member. */
  outside: number;
}

export const noFaults = (): Faults => ({ lost: 0, doubled: 0, reordered: 0, different: 0, outside: 0 });

/** One member's place: taken in by the entry `joined`, received everything from there up to `last`. */
interface Place {
  readonly joined: number;
  last: number;
}

interface Seen {
  readonly id: string;
  readonly from: string;
  /** Of other entries than messages: their JSON. */
  readonly content: string;
}

export interface StageCounters {
  readonly ackMs: Latencies;
  readonly deliveryMs: Latencies;
  deliveries: number;
}

/** Examples of faults kept in words, for whoever looks into one. */
const EXAMPLES_MAX = 10;

export class Stage {
  readonly conversation: string;
  readonly file: string;
  readonly faults = noFaults();
  readonly examples: string[] = [];
  readonly lines: Line[] = [];
  /** The last seq that was acknowledged to us: of a message or a change of members. */
  head = 0;
  epoch = "";
  /** Deliveries that are due: to every member of the moment, one per entry. */
  #due = 0;
  #received = 0;
  readonly #places = new Map<string, Place>();
  /** Asked to be taken in, not yet confirmed: they may see something of the conversation or nothing. */
  readonly #joining = new Set<string>();
  /** Deliveries that overtook the acknowledgement that we wait for: counted when it is there. */
  readonly #early: { user: string; entry: Entry; atMs: number }[] = [];
  readonly #seen: Seen[] = [];
  readonly #startedMs: number[] = [];
  readonly #counters: StageCounters;
  readonly #waiters = new Set<{ isDone: () => boolean; resolve: () => void }>();

  constructor(conversation: string, file: string, counters: StageCounters) {
    this.conversation = conversation;
    this.file = file;
    this.#counters = counters;
  }

  get members(): number {
    return this.#places.size;
  }

  /** Deliveries that have not arrived yet. */
  get outstanding(): number {
    return this.#due - this.#received;
  }

  /** The first members are no entry of the timeline. */
  begin(users: readonly string[]): void {
    for (const user of users) this.#places.set(user, { joined: 0, last: 0 });
  }

  /** The next line is being sent: its deliveries are measured from now. */
  starting(nowMs: number): void {
    this.#startedMs[this.head + 1] = nowMs;
  }

  committed(line: Line): void {
    this.#moveTo(line.seq);
    this.lines.push(line);
    this.#due += this.#places.size;
    this.#settle();
  }

  joining(users: readonly string[]): void {
    for (const user of users) this.#joining.add(user);
  }

  /** Members who were there before the entry `seq` receive it; those who join by it receive what follows. */
  joined(users: readonly string[], seq: number): void {
    this.#moveTo(seq);
    this.#due += this.#places.size;
    for (const user of users) {
      this.#places.set(user, { joined: seq, last: seq });
      this.#joining.delete(user);
    }
    this.#settle();
  }

  left(user: string): void {
    this.#missing(user);
    this.#places.delete(user);
    this.#moveTo(this.head + 1);
    this.#due += this.#places.size;
    this.#settle();
  }

  #settle(): void {
    const early = this.#early.splice(0);
    for (const { user, entry, atMs } of early) this.received(user, entry, atMs);
    this.#wake();
  }

  /** What a member's client handed on. */
  received(user: string, entry: Entry, nowMs: number): void {
    if (entry.seq > this.head) {
      this.#early.push({ user, entry, atMs: nowMs });
      return;
    }
    const place = this.#places.get(user);
    if (!place) {
      this.#outsider(user, entry);
      return;
    }
    // A client that was just taken in may show what was there before.
    if (entry.seq <= place.joined) return;
    if (entry.seq <= place.last) {
      const kind = this.#seen[entry.seq]?.id === entry.id ? "doubled" : "reordered";
      this.#fault(kind, `${user} got ${entry.seq} after ${place.last}`);
      return;
    }
    if (entry.seq > place.last + 1) {
      this.#fault("lost", `${user} got ${entry.seq} after ${place.last}`, entry.seq - place.last - 1);
      this.#received += entry.seq - place.last - 1;
    }
    place.last = entry.seq;
    this.#received += 1;
    this.#compare(user, entry);
    if (entry.kind === "message" && entry.message.from !== user) {
      this.#counters.deliveries += 1;
      this.#counters.deliveryMs.record(nowMs - this.#startedMs[entry.seq]!);
    }
    if (this.#waiters.size > 0) this.#wake();
  }

  /** Resolves true as soon as the member has everything up to `seq`; false when nothing at all arrives for `stallMs`. */
  untilReceived(user: string, seq: number, stallMs: number): Promise<boolean> {
    return this.#until(() => (this.#places.get(user)?.last ?? seq) >= seq, stallMs);
  }

  /** Resolves true as soon as at most `outstanding` deliveries are on their way; false when nothing arrives for `stallMs`. */
  untilOutstanding(outstanding: number, stallMs: number): Promise<boolean> {
    return this.#until(() => this.outstanding <= outstanding, stallMs);
  }

  /** When all is over: who still misses something, and what was received but never sent. */
  conclude(): void {
    for (const user of this.#places.keys()) this.#missing(user);
    for (const { user, entry } of this.#early.splice(0)) this.#outsider(user, entry);
    for (const { seq, id, from, text } of this.lines) {
      const seen = this.#seen[seq];
      if (seen && (seen.id !== id || seen.from !== from || seen.content !== text)) {
        this.#fault(
          "different",
          `members received ${JSON.stringify(seen)} at ${seq}, sent was ${id} ${JSON.stringify(text)}`,
        );
      }
    }
  }

  #moveTo(seq: number): void {
    if (seq !== this.head + 1) {
      const kind = seq > this.head ? "lost" : "reordered";
      this.#fault(kind, `the server acknowledged ${seq} after ${this.head}`);
    }
    this.head = Math.max(this.head, seq);
  }

  #missing(user: string): void {
    const { last } = this.#places.get(user)!;
    if (last < this.head) this.#fault("lost", `${user} got nothing after ${last} of ${this.head}`, this.head - last);
  }

  #outsider(user: string, entry: Entry): void {
    if (this.#joining.has(user)) return;
    // Who leaves at once after joining may hear of the joining after the leaving.
    if (entry.kind === "member" && entry.users.includes(user)) return;
    this.#fault("outside", `${user} got ${entry.seq} without being a member`);
  }

  #compare(user: string, entry: Entry): void {
    const isMessage = entry.kind === "message";
    const [id, from] = isMessage ? [entry.message.id, entry.message.from] : [entry.id, entry.by];
    const content = isMessage ? (entry.message.body.text ?? "") : JSON.stringify(entry);
    const seen = this.#seen[entry.seq];
    if (!seen) this.#seen[entry.seq] = { id, from, content };
    else if (seen.id !== id || seen.from !== from || seen.content !== content) {
      this.#fault(
        "different",
        `${user} got ${JSON.stringify(entry)} at ${entry.seq}, another member ${JSON.stringify(seen)}`,
      );
    }
  }

  #fault(kind: keyof Faults, example: string, count = 1): void {
    this.faults[kind] += count;
    if (this.examples.length < EXAMPLES_MAX) this.examples.push(`${this.file}: ${kind}: ${example}`);
  }

  #wake(): void {
    for (const waiter of this.#waiters) if (waiter.isDone()) waiter.resolve();
  }

  async #until(isDone: () => boolean, stallMs: number): Promise<boolean> {
    while (!isDone()) {
      const before = this.#received;
      const { promise, resolve } = Promise.withResolvers<void>();
      const waiter = { isDone, resolve };
      this.#waiters.add(waiter);
      const timer = setTimeout(resolve, stallMs);
      await promise;
      clearTimeout(timer);
      this.#waiters.delete(waiter);
      if (!isDone() && this.#received === before) return false;
    }
    return true;
  }
}
