/**
 * One file's conversation while it is played: what was committed, where each device of each member stands, and what devices received
 * that they should not have. What they hold at the end is compared elsewhere (agree.ts); here it is that nothing is missing, comes
 * twice or out of order, or to somebody who is no member.
 */

import type { Entry } from "../../lib/client/index.ts";
import type { Latencies } from "../load/latencies.ts";
import type { Act } from "./plan.ts";
import { isSameEntry, Seen, type Variant } from "./seen.ts";

/** A message as it was acknowledged. */
export interface Line {
  readonly seq: number;
  readonly id: string;
  readonly from: string;
  readonly text: string;
}

/** What a device may have got wrong; 0 in health. */
export interface Faults {
  lost: number;
  doubled: number;
  reordered: number;
  different: number;
  /** Received without being a member. */
  outside: number;
}

export const noFaults = (): Faults => ({ lost: 0, doubled: 0, reordered: 0, different: 0, outside: 0 });

/** One device of a member: taken in by the entry `joined`, received everything from there up to `last`. */
export interface Place {
  readonly user: string;
  readonly device: string;
  readonly joined: number;
  last: number;
  /** The user's read cursor, as far as the device knows. */
  read: number;
  /** By seq. */
  readonly entries: Variant[];
  /** What was said before is caught up on, not delivered. */
  awakeSinceMs: number;
}

export interface StageCounters {
  readonly ackMs: Latencies;
  readonly deliveryMs: Latencies;
  deliveries: number;
  /** Messages that came to a device when it was back. */
  caughtUp: number;
}

export interface StageOptions {
  readonly conversation: string;
  readonly file: string;
  /** Names of the devices that each user has. */
  readonly devices: readonly string[];
  readonly counters: StageCounters;
}

/** Examples of faults kept in words, for whoever looks into one. */
const EXAMPLES_MAX = 10;
/** No user id has it. */
const SEPARATOR = "/";
export const placeKey = (user: string, device: string) => user + SEPARATOR + device;

export class Stage {
  readonly conversation: string;
  readonly file: string;
  readonly faults = noFaults();
  readonly examples: string[] = [];
  readonly lines: Line[] = [];
  /** What was done to which message, as it was acknowledged. */
  readonly done: { readonly seq: number; readonly act: Act }[] = [];
  readonly seen = new Seen();
  /** The last seq that was acknowledged to us: of whatever entry. */
  head = 0;
  epoch = "";
  /** Entries that awake devices of members have not received yet. */
  outstanding = 0;
  /** Of all devices together; only who waits compares it. */
  #received = 0;
  readonly #places = new Map<string, Place>();
  readonly #asleep = new Set<string>();
  /** Asked to be taken in, not yet confirmed: they may see something of the conversation or nothing. */
  readonly #joining = new Set<string>();
  /** Deliveries that overtook the acknowledgement that we wait for: counted when it is there. */
  readonly #early: { user: string; device: string; entry: Entry; atMs: number }[] = [];
  readonly #startedMs: number[] = [];
  readonly #devices: readonly string[];
  readonly #counters: StageCounters;
  readonly #waiters = new Set<{ isDone: () => boolean; resolve: () => void }>();

  constructor({ conversation, file, devices, counters }: StageOptions) {
    this.conversation = conversation;
    this.file = file;
    this.#devices = devices;
    this.#counters = counters;
  }

  /** Devices of members that are awake. */
  get audience(): number {
    return this.#awake().length;
  }

  get places(): readonly Place[] {
    return [...this.#places.values()];
  }

  /** The first members are no entry of the timeline. */
  begin(users: readonly string[]): void {
    for (const user of users) this.#place(user, 0);
  }

  /** The next line is being sent: its deliveries are measured from now. */
  starting(nowMs: number): void {
    this.#startedMs[this.head + 1] = nowMs;
  }

  committed(line: Line): void {
    this.#moveTo(line.seq);
    this.lines.push(line);
    this.#settle();
  }

  /** Acts at once are so many entries, in an order of the server's. */
  amended(done: readonly { readonly seq: number; readonly act: Act }[]): void {
    for (const _ of done) this.#moveTo(this.head + 1);
    this.done.push(...done);
    this.#settle();
  }

  joining(users: readonly string[]): void {
    for (const user of users) this.#joining.add(user);
  }

  /** Members who were there before the entry `seq` receive it; those who join by it receive what follows. */
  joined(users: readonly string[], seq: number): void {
    this.#moveTo(seq);
    for (const user of users) {
      this.#place(user, seq);
      this.#joining.delete(user);
    }
    this.#settle();
  }

  /** `sinceMs`: when it began to leave. A device that woke after that had no time to catch up: nothing is due to it. */
  left(user: string, sinceMs: number): void {
    for (const device of this.#devices) {
      const key = placeKey(user, device);
      const place = this.#places.get(key)!;
      if (!this.#asleep.has(key)) {
        if (place.awakeSinceMs <= sinceMs) this.#missing(place);
        this.outstanding -= this.head - place.last;
      }
      this.#places.delete(key);
    }
    this.#moveTo(this.head + 1);
    this.#settle();
  }

  /** The device is offline: nothing is due to it. */
  slept(user: string, device: string): void {
    const key = placeKey(user, device);
    const place = this.#places.get(key);
    if (place) this.outstanding -= this.head - place.last;
    this.#asleep.add(key);
    this.#wake();
  }

  /** It connects again: all that it has missed is due. */
  woke(user: string, device: string, nowMs: number): void {
    const key = placeKey(user, device);
    const place = this.#places.get(key);
    this.#asleep.delete(key);
    if (!place) return;
    this.outstanding += this.head - place.last;
    place.awakeSinceMs = nowMs;
  }

  #place(user: string, seq: number): void {
    for (const device of this.#devices) {
      const place = { user, device, joined: seq, last: seq, read: seq, entries: [], awakeSinceMs: 0 };
      this.#places.set(placeKey(user, device), place);
    }
  }

  #awake(): Place[] {
    return [...this.#places].filter(([key]) => !this.#asleep.has(key)).map(([, place]) => place);
  }

  #settle(): void {
    const early = this.#early.splice(0);
    for (const { user, device, entry, atMs } of early) this.received(user, device, entry, atMs);
    this.#wake();
  }

  /** What a member's client handed on. */
  received(user: string, device: string, entry: Entry, nowMs: number): void {
    if (entry.seq > this.head) {
      this.#early.push({ user, device, entry, atMs: nowMs });
      return;
    }
    const key = placeKey(user, device);
    const place = this.#places.get(key);
    if (!place) {
      this.#outsider(user, entry);
      return;
    }
    // A client that was just taken in may show what was there before.
    if (entry.seq <= place.joined) return;
    if (entry.seq <= place.last) {
      const kind = place.entries[entry.seq]?.entry.id === entry.id ? "doubled" : "reordered";
      this.#fault(kind, `${key} got ${entry.seq} after ${place.last}`);
      return;
    }
    if (entry.seq > place.last + 1) {
      this.#fault("lost", `${key} got ${entry.seq} after ${place.last}`, entry.seq - place.last - 1);
    }
    if (!this.#asleep.has(key)) this.outstanding -= entry.seq - place.last;
    place.last = entry.seq;
    this.#received += 1;
    place.entries[entry.seq] = this.seen.note(entry, key);
    if (entry.kind === "message") this.#count(place, entry, nowMs);
    if (this.#waiters.size > 0) this.#wake();
  }

  #count(place: Place, { seq, message }: Extract<Entry, { kind: "message" }>, nowMs: number): void {
    if (message.from === place.user) {
      // Who speaks has read what was there.
      place.read = Math.max(place.read, seq);
      return;
    }
    const startedMs = this.#startedMs[seq]!;
    if (startedMs < place.awakeSinceMs) {
      this.#counters.caughtUp += 1;
      return;
    }
    this.#counters.deliveries += 1;
    this.#counters.deliveryMs.record(nowMs - startedMs);
  }

  /** The device hears how far its user has read. */
  read(user: string, device: string, seq: number): void {
    const place = this.#places.get(placeKey(user, device));
    if (place) place.read = Math.max(place.read, seq);
  }

  /** Resolves true as soon as the user's awake devices have everything up to `seq`; false when nothing arrives for `stallMs`. */
  untilReceived(user: string, seq: number, stallMs: number): Promise<boolean> {
    const keys = this.#devices.map((device) => placeKey(user, device));
    const hasAll = (key: string) => this.#asleep.has(key) || (this.#places.get(key)?.last ?? seq) >= seq;
    return this.#until(() => keys.every(hasAll), stallMs);
  }

  /** Resolves true as soon as at most `outstanding` deliveries are on their way; false when nothing arrives for `stallMs`. */
  untilOutstanding(outstanding: number, stallMs: number): Promise<boolean> {
    return this.#until(() => this.outstanding <= outstanding, stallMs);
  }

  /** When all is over: who still misses something, and what was received but never sent. */
  conclude(): void {
    for (const place of this.#places.values()) this.#missing(place);
    for (const { user, entry } of this.#early.splice(0)) this.#outsider(user, entry);
    const sent = new Map(this.lines.map((line) => [line.seq, line]));
    for (let seq = 1; seq <= this.head; seq++) {
      const line = sent.get(seq);
      const [first, ...others] = this.seen.at(seq);
      for (const { entry, text, by } of line && first ? [first, ...others] : others) {
        if (isSameEntry(entry, line ? messageOf(line, entry) : first!.entry)) continue;
        const expected = line ? `sent was ${JSON.stringify(line)}` : `${first!.by} ${first!.text}`;
        this.#fault("different", `${by} received ${text} at ${seq}, ${expected}`);
      }
    }
  }

  #moveTo(seq: number): void {
    if (seq !== this.head + 1) {
      const kind = seq > this.head ? "lost" : "reordered";
      this.#fault(kind, `the server acknowledged ${seq} after ${this.head}`);
    }
    const head = Math.max(this.head, seq);
    this.outstanding += (head - this.head) * this.audience;
    this.head = head;
  }

  #missing({ user, device, last }: Place): void {
    if (last >= this.head) return;
    const where = placeKey(user, device);
    this.#fault("lost", `${where} got nothing after ${last} of ${this.head}`, this.head - last);
  }

  #outsider(user: string, entry: Entry): void {
    if (this.#joining.has(user)) return;
    // Who leaves at once after joining may hear of the joining after the leaving.
    if (entry.kind === "member" && entry.users.includes(user)) return;
    this.#fault("outside", `${user} got ${entry.seq} without being a member`);
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

/** The entry of a line, with what the sender did not give as `entry` has it. */
function messageOf({ seq, id, from, text }: Line, entry: Entry): Entry {
  const sentAt = entry.kind === "message" ? entry.message.sentAt : 0;
  const conversation = entry.kind === "message" ? entry.message.conversation : "";
  return { kind: "message", seq, id, message: { seq, id, conversation, from, type: "text", body: { text }, sentAt } };
}
