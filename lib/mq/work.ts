/**
 * What one held partition offers to its work (batch-work.ts, key-work.ts), and what it asks of it. The work decides what is
 * handed out and when it is finished; the site knows the lease, what stands aside, the counters, and whether to go on.
 */

import type { Clock } from "../clock.ts";
import type { Log } from "../observability/index.ts";
import { type Attempts, resume } from "./attempts.ts";
import type { AsideTurn } from "./changes.ts";
import type { Declaration, Handler } from "./consumer.ts";
import { type BuryReason, buryReasonOf, deadLetterOf, textOf } from "./dead-letter.ts";
import { HandOut, type HandOutOwner } from "./hand-out.ts";
import type { PartitionLease } from "./lease.ts";
import { type Delivery, InvalidMessage, Later } from "./message.ts";
import type { Progress } from "./progress.ts";
import { isExpired, isSelected } from "./selection.ts";
import { orderKeyOf } from "./side.ts";
import type { SideListener, SideQueue } from "./side-queue.ts";

export interface Work<D> extends SideListener, HandOutOwner<D> {
  /** Whether more entries may be read. */
  hasRoom(): boolean;
  accept(deliveries: Delivery<D>[]): void;
  /** Hands out what it may. Also called again after a pause. */
  run(): void;
  /** Resolves when nothing is in the hands of handlers. */
  idle(): Promise<void>;
  progress(): Progress;
  /** Whether keys aside may be taken in hand. */
  mayTake(): boolean;
}

/** What came of one hand-out of one message. */
export type Outcome =
  | { readonly kind: "done" }
  /** By its consume transaction, and the work knows it already. */
  | { readonly kind: "ended" }
  /** The lease is lost, or the site drains: another holder goes on with it. */
  | { readonly kind: "left" }
  | { readonly kind: "again"; readonly waitMs: number }
  | { readonly kind: "bury"; readonly reason: BuryReason; readonly error: unknown }
  /** Its attempts are used up. */
  | { readonly kind: "hopeless"; readonly error: unknown };

const DONE: Outcome = { kind: "done" };
const ENDED: Outcome = { kind: "ended" };
const LEFT: Outcome = { kind: "left" };

/** Counters bound to one topic and group: a label look-up per batch is cheap, per message it is not. */
export interface GroupCounters {
  readonly delivered: { inc(by: number): void };
  readonly acked: { inc(by: number): void };
  readonly retried: { inc(by: number): void };
  readonly expired: { inc(by: number): void };
}

export interface WorkSiteParts<D> {
  readonly partition: number;
  readonly declaration: Declaration<D>;
  readonly lease: PartitionLease;
  readonly side: SideQueue<D>;
  /** By entry, what was noted of the entries that were left unfinished. */
  readonly attempts: ReadonlyMap<string, Attempts>;
  readonly counters: GroupCounters;
  readonly clock: Clock;
  readonly log: Log;
  /** Who holds the partition. */
  readonly member: string;
  /** There is room to read again. */
  readonly wake: () => void;
  /** Something is finished or failed: it wants a commit soon. */
  readonly onChanged: () => void;
}

export class WorkSite<D> {
  readonly partition: number;
  readonly declaration: Declaration<D>;
  readonly lease: PartitionLease;
  readonly side: SideQueue<D>;
  readonly counters: GroupCounters;
  readonly clock: Clock;
  readonly wake: () => void;
  readonly #log: Log;
  readonly #member: string;
  readonly changed: () => void;
  readonly #waits = new AbortController();
  /** What a predecessor noted of entries that it left unfinished. */
  readonly #inherited: Map<string, Attempts>;
  /** Entries of which attempts are kept in Redis. */
  readonly #noted: Set<string>;
  #isDraining = false;

  constructor(parts: WorkSiteParts<D>) {
    this.partition = parts.partition;
    this.declaration = parts.declaration;
    this.lease = parts.lease;
    this.side = parts.side;
    this.counters = parts.counters;
    this.clock = parts.clock;
    this.wake = parts.wake;
    this.#log = parts.log;
    this.#member = parts.member;
    this.changed = parts.onChanged;
    this.#inherited = new Map(parts.attempts);
    this.#noted = new Set(parts.attempts.keys());
    this.lease.signal.addEventListener("abort", () => this.#waits.abort(), { once: true });
  }

  /** Ends waits between attempts when nothing more may be handed out. */
  get waits(): AbortSignal {
    return this.#waits.signal;
  }

  mayHandOut(): boolean {
    return !this.#isDraining && this.lease.isHeld();
  }

  /** From now on nothing is handed out; what is in hand may finish. */
  drain(): void {
    this.#isDraining = true;
    this.#waits.abort();
  }

  /** Whether the group is given this message; what is not is finished unseen. */
  isSelected(delivery: Delivery<D>): boolean {
    // Without attributes the time does not matter, and to ask for it costs more than all the rest.
    const now = delivery.hasAttributes ? this.clock.now() : 0;
    if (isSelected(delivery, this.declaration, now)) return true;
    if (isExpired(delivery, now)) this.counters.expired.inc(1);
    return false;
  }

  /** Goes on counting the attempts of entries that a predecessor left unfinished. */
  inherit(deliveries: readonly Delivery<D>[]): void {
    if (this.#inherited.size === 0) return;
    for (const delivery of deliveries) {
      const attempts = this.#inherited.get(delivery.entry);
      if (attempts === undefined) continue;
      this.#inherited.delete(delivery.entry);
      resume(delivery, attempts);
    }
  }

  /** Hands one message out, once. */
  async attempt(delivery: Delivery<D>, handle: Handler<D>, owner: HandOutOwner<D>): Promise<Outcome> {
    const { declaration, counters, lease } = this;
    if (!this.isSelected(delivery)) return DONE;
    if (declaration.validate) {
      const invalid = invalidityOf(delivery);
      if (invalid) return { kind: "bury", reason: "invalid", error: invalid };
    }
    counters.delivered.inc(1);
    const handOut = new HandOut(this, owner, delivery);
    try {
      await handle(delivery, handOut);
      if (handOut.hasTransaction && (await this.isEnded(handOut))) return ENDED;
      if (!lease.isHeld()) return LEFT;
      counters.acked.inc(1);
      return DONE;
    } catch (error) {
      if (handOut.hasTransaction && (await this.isEnded(handOut, error))) return ENDED;
      if (!lease.isHeld()) return LEFT;
      if (error instanceof Later) return { kind: "again", waitMs: error.ms };
      const reason = buryReasonOf(error);
      if (reason !== undefined) return { kind: "bury", reason, error };
      if (delivery.attempt >= declaration.maxAttempts) return { kind: "hopeless", error };
      const waitMs = declaration.retryMs(delivery.attempt);
      this.failed([delivery], error);
      return { kind: "again", waitMs };
    }
  }

  /** Waits for what a handler asked to commit. Resolves to whether it is finished by it; `error`: what the handler threw. */
  async isEnded(handOut: HandOut<D>, error?: unknown, count = 1): Promise<boolean> {
    await handOut.settled();
    if (!handOut.isCommitted) return false;
    this.counters.acked.inc(count);
    const fields = { partition: this.partition, reason: textOf(error) };
    if (error !== undefined) this.#log.warn(fields, "handler failed after its commit, which stands");
    return true;
  }

  /** Counts a failed attempt of each. What one alone has cost is kept; of a batch, nobody knows whose fault it was. */
  failed(deliveries: readonly Delivery<D>[], error: unknown): void {
    const now = this.clock.now();
    for (const delivery of deliveries) {
      delivery.note(now, this.#member, textOf(error));
      delivery.attempt += 1;
    }
    const [first] = deliveries as [Delivery<D>];
    if (deliveries.length === 1 && !this.side.holds(orderKeyOf(first), first)) {
      this.#noted.add(first.entry);
      this.lease.changes.note(first.entry, attemptsOf(first));
    }
    this.counters.retried.inc(deliveries.length);
    this.changed();
    const { entry, key, attempt } = first;
    const count = deliveries.length;
    this.#log.warn({ entry, key, attempt, count, partition: this.partition, reason: textOf(error) }, "handler failed");
  }

  /** The stream's entry is finished, or stands aside: what was noted of it is not needed any more. */
  forget({ entry }: Delivery<D>): void {
    if (this.#noted.size > 0 && this.#noted.delete(entry)) this.lease.changes.note(entry, undefined);
  }

  /** What becomes of a key whose first message is `delivery` and may go on after `waitMs`. */
  retry(delivery: Delivery<D>, waitMs: number): AsideTurn {
    return { ...attemptsOf(delivery), state: "ready", waitMs };
  }

  /** What becomes of a key whose first message used up its attempts, or its holders. */
  park(delivery: Delivery<D>, error: unknown): AsideTurn {
    delivery.note(this.clock.now(), this.#member, textOf(error));
    const { entry, key, attempt } = delivery;
    this.#log.warn({ entry, key, attempt, partition: this.partition, cause: textOf(error) }, "key parked");
    return { ...attemptsOf(delivery), failed: attempt, state: "parked", waitMs: 0 };
  }

  /** Moves a message to dead letters with the commit that says it is finished. */
  bury(delivery: Delivery<D>, reason: BuryReason, error: unknown): void {
    if (reason === "attempts" || reason === "bury") delivery.note(this.clock.now(), this.#member, textOf(error));
    const letter = deadLetterOf(delivery, reason, error);
    const key = orderKeyOf(delivery);
    if (this.side.holds(key, delivery)) this.side.drop(key, letter);
    else this.lease.changes.bury(letter);
    const { entry, attempt } = delivery;
    this.#log.warn({ entry, key, attempt, partition: this.partition, reason, cause: textOf(error) }, "message buried");
  }
}

/** What is wrong with the data of a message, if anything is. */
export function invalidityOf<D>(delivery: Delivery<D>): InvalidMessage | undefined {
  try {
    void delivery.data;
    return undefined;
  } catch (error) {
    if (!(error instanceof InvalidMessage)) throw error;
    return error;
  }
}

function attemptsOf<D>({ attempt, firstFailureMs, history }: Delivery<D>): Attempts {
  return { failed: attempt - 1, losses: 0, firstFailureMs, history };
}
