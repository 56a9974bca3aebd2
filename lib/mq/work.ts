/**
 * What one held partition offers to its work (batch-work.ts, key-work.ts), and what it asks of it. The work decides what is
 * handed out and when it is finished; the site knows the lease, the counters, and whether to go on.
 */

import type { Clock } from "../clock.ts";
import type { Log } from "../observability/index.ts";
import type { Declaration } from "./consumer.ts";
import { type BuryReason, deadLetterOf, textOf } from "./dead-letter.ts";
import type { PartitionLease } from "./lease.ts";
import { type Delivery, InvalidMessage } from "./message.ts";
import type { Progress } from "./progress.ts";

export interface Work<D> {
  /** Whether more entries may be read. */
  hasRoom(): boolean;
  accept(deliveries: Delivery<D>[]): void;
  /** Hands out what it may. Also called again after a pause. */
  run(): void;
  /** Resolves when nothing is in the hands of handlers. */
  idle(): Promise<void>;
  progress(): Progress;
}

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
  readonly counters: GroupCounters;
  readonly clock: Clock;
  readonly wake: () => void;
  readonly #log: Log;
  readonly #member: string;
  readonly changed: () => void;
  readonly #waits = new AbortController();
  #isDraining = false;

  constructor(parts: WorkSiteParts<D>) {
    this.partition = parts.partition;
    this.declaration = parts.declaration;
    this.lease = parts.lease;
    this.counters = parts.counters;
    this.clock = parts.clock;
    this.wake = parts.wake;
    this.#log = parts.log;
    this.#member = parts.member;
    this.changed = parts.onChanged;
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

  /** Counts a failed attempt of each. */
  failed(deliveries: readonly Delivery<D>[], error: unknown): void {
    const now = this.clock.now();
    for (const delivery of deliveries) {
      delivery.note(now, this.#member, textOf(error));
      delivery.attempt += 1;
      delivery.firstFailureMs ||= now;
    }
    this.counters.retried.inc(deliveries.length);
    this.changed();
    const { entry, key, attempt } = deliveries[0]!;
    const count = deliveries.length;
    this.#log.warn({ entry, key, attempt, count, partition: this.partition, reason: textOf(error) }, "handler failed");
  }

  /** Moves a message to dead letters with the commit that says it is finished. */
  bury(delivery: Delivery<D>, reason: BuryReason, error: unknown): void {
    if (reason === "attempts" || reason === "bury") delivery.note(this.clock.now(), this.#member, textOf(error));
    this.lease.bury(deadLetterOf(delivery, reason, error));
    const { entry, key, attempt } = delivery;
    this.#log.warn({ entry, key, attempt, partition: this.partition, reason, cause: textOf(error) }, "message buried");
  }

  isBuriedAsInvalid(delivery: Delivery<D>): boolean {
    try {
      void delivery.data;
      return false;
    } catch (error) {
      if (!(error instanceof InvalidMessage)) throw error;
      this.bury(delivery, "invalid", error);
      return true;
    }
  }
}
