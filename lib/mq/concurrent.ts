/**
 * A member of a concurrent group: a Redis consumer group with its pending list. Any member takes any message, in any order.
 *
 *   XREADGROUP ──► in hand ──ack──► gone
 *                    │ ├──retry──► waits under the name #retry until due ──claim──► in hand (of any member)
 *                    │ └──bury──► dead letters
 *                    └─ lease runs out ──claim──► in hand of another, with a higher token; answers of the first are refused
 */

import { systemClock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { toAppError } from "../redis/index.ts";
import { createService, type Service, whenAborted } from "../service.ts";
import { NO_ATTEMPTS } from "./attempts.ts";
import type { Declaration, QueueContext } from "./consumer.ts";
import { DeliveryLeases, Hold } from "./delivery-lease.ts";
import { DeliveryWork, holdOf } from "./delivery-work.ts";
import { registerEverywhere } from "./group.ts";
import { GroupReader } from "./group-reader.ts";
import { Membership } from "./membership.ts";
import { Delivery, type StreamEntry } from "./message.ts";
import type { Topic } from "./topic.ts";

/** How late a retry or a takeover may be noticed. One small script per partition. */
const SWEEP_MS = 1_000;
/** How soon a pause is noticed. Two small commands. */
const LOOK_MS = 500;
/** Claims per partition and sweep; a sweep that is full is followed by another at once. */
const CLAIM_MAX = 100;
const RENEW_CHUNK_MAX = 100;
/** Entries of its last life that a member gives back per script call. */
const DISOWN_MAX = 100;
/** Member names that hold nothing are forgotten after an hour; looked at every ten minutes. */
const CONSUMER_IDLE_MS = 3_600_000;
const CONSUMER_SWEEP_MS = 600_000;
const CONSUMER_DROP_MAX = 100;

export function createConcurrentConsumer<D>(
  context: QueueContext,
  topic: Topic<D>,
  declaration: Declaration<D>,
  onStopped: () => void,
): Service {
  const consumer = new ConcurrentConsumer(context, topic, declaration);
  return createService(
    `${topic.name}/${declaration.group}`,
    () => consumer.start(),
    (signal) => consumer.stop(signal).finally(onStopped),
  );
}

class ConcurrentConsumer<D> {
  readonly #context: QueueContext;
  readonly #topic: Topic<D>;
  readonly #declaration: Declaration<D>;
  readonly #leases: DeliveryLeases;
  readonly #work: DeliveryWork<D>;
  readonly #reader: GroupReader;
  readonly #membership: Membership;
  readonly #partitions: readonly number[];
  readonly #stopping = new AbortController();
  readonly #stopped = new AbortController();
  #upkeep: Promise<unknown> = Promise.resolve();
  #isPaused = false;
  #nextSweepAt = 0;
  #wakeSweep: (() => void) | undefined;
  #consumersSweptAt = performance.now();

  constructor(context: QueueContext, topic: Topic<D>, declaration: Declaration<D>) {
    this.#context = context;
    this.#topic = topic;
    this.#declaration = declaration;
    this.#partitions = Array.from({ length: context.keys.partitions }, (_, partition) => partition);
    const { name } = topic;
    const { group, leaseMs, batchMax, inFlightMax } = declaration;
    this.#leases = new DeliveryLeases(context, name, group, leaseMs);
    this.#membership = new Membership(context, name, group, leaseMs);
    const { delivered, acked, retried, expired } = context.metrics;
    this.#work = new DeliveryWork<D>({
      context,
      topic: name,
      declaration,
      leases: this.#leases,
      counters: {
        delivered: delivered.labels(name, group),
        acked: acked.labels(name, group),
        retried: retried.labels(name, group),
        expired: expired.labels(name, group),
      },
      onRoom: () => this.#reader.wake(),
      onRetry: (waitMs) => this.#sweepWithin(waitMs),
    });
    this.#reader = new GroupReader({
      ...{ context, topic: name, group, batchMax, inFlightMax },
      room: () => this.#work.room,
      generation: (partition) => this.#leases.generation(partition),
      knownClaims: (partition) => this.#leases.knownClaims(partition),
      onEntries: (partition, entries, generation, known) => this.#take(partition, entries, generation, known),
      onFailure: (error) => this.#heal(error),
    });
  }

  async start(): Promise<void> {
    await registerEverywhere(this.#context, this.#topic.name, this.#declaration as Declaration<unknown>);
    try {
      await this.#leases.learn();
      await Promise.all(this.#partitions.map((partition) => this.#disown(partition)));
    } catch (error) {
      throw toAppError(error);
    }
    this.#reader.start();
    this.#upkeep = Promise.all([this.#sweep(), this.#renew(), this.#keepLooking()]);
  }

  async stop(signal: AbortSignal): Promise<void> {
    this.#stopping.abort();
    this.#wakeSweep?.();
    this.#work.releaseWaiting();
    await Promise.race([whenAborted(signal), this.#reader.stop(signal).then(() => this.#work.idle())]);
    this.#stopped.abort();
    for (const hold of this.#work.holds) hold.lose(new AppError("OVERLOADED", "the process is stopping"));
    await Promise.all([this.#reader.close(), this.#upkeep]);
    await this.#membership.leave().catch((error: unknown) => {
      this.#context.log.debug({ error }, "a member could not say that it leaves; its time runs out");
    });
  }

  #take(partition: number, entries: readonly StreamEntry[], generation: number, knownClaims: string): void {
    // Of a consumer group that a seek has ended meanwhile: the new one hands them out again, if they are of its range.
    if (generation !== this.#leases.generation(partition)) return;
    // The first hand-out: Redis counts it as 1.
    this.#deliver(
      entries.map((entry) => {
        const delivery = new Delivery(this.#topic, partition, entry);
        return new Hold(delivery, 1, NO_ATTEMPTS, generation, knownClaims);
      }),
    );
  }

  #deliver(holds: readonly Hold<D>[]): void {
    if (this.#isStopping || this.#isPaused) this.#work.release(holds);
    else this.#work.deliver(holds);
  }

  /** NOGROUP: after a seek the group goes on in its new generation; after a loss (FLUSHALL) where it stood. Never rejects. */
  async #heal(error: unknown): Promise<void> {
    const message = error instanceof Error ? error.message : "";
    if (!/^(NOGROUP|UNBLOCKED)/.test(message)) return;
    try {
      // What came since a loss must not be missed.
      const declaration = { ...this.#declaration, start: "first" } as Declaration<unknown>;
      await registerEverywhere(this.#context, this.#topic.name, declaration);
      await this.#learn();
    } catch (cause) {
      this.#context.log.debug({ error: cause }, "a group could not be made again yet");
    }
  }

  /** What is in hand of a generation that is over is another's now. */
  async #learn(): Promise<void> {
    const changed = await this.#leases.learn();
    if (changed.size === 0) return;
    const held = [...this.#work.holds].filter(({ partition }) => changed.has(partition));
    this.#work.lose(held, leaseLost("the group was set to another place"));
  }

  /** Notices within a second that an operator paused or resumed the group. */
  async #keepLooking(): Promise<void> {
    while (!this.#isStopping) {
      try {
        const { isPaused, isSought } = await this.#membership.look();
        if (isSought) await this.#learn();
        if (isPaused !== this.#isPaused) this.#setPaused(isPaused);
      } catch (error) {
        this.#context.log.debug({ error }, "the group's state could not be read");
      }
      await systemClock.sleep(LOOK_MS, this.#stopping.signal);
    }
  }

  #setPaused(isPaused: boolean): void {
    this.#isPaused = isPaused;
    if (isPaused) {
      this.#reader.pause();
      this.#work.releaseWaiting();
    } else {
      this.#reader.resume();
      this.#sweepWithin(0);
    }
  }

  /** Hands out what is due or was lost, once a second and whenever a retry of our own falls due. */
  async #sweep(): Promise<void> {
    while (!this.#isStopping) {
      this.#nextSweepAt = performance.now() + SWEEP_MS;
      const results = await Promise.allSettled(this.#partitions.map((partition) => this.#claim(partition)));
      const failed = results.find((result) => result.status === "rejected");
      if (failed) {
        this.#context.log.debug({ error: failed.reason }, "claiming deliveries failed, it will be repeated");
        await this.#heal(failed.reason);
      } else await this.#dropConsumers();
      while (!this.#isStopping && performance.now() < this.#nextSweepAt) {
        const waiting = new AbortController();
        this.#wakeSweep = () => waiting.abort();
        await systemClock.sleep(Math.max(1, this.#nextSweepAt - performance.now()), waiting.signal);
      }
    }
  }

  async #claim(partition: number): Promise<void> {
    const limit = Math.min(CLAIM_MAX, Math.ceil(this.#work.room / this.#partitions.length));
    if (limit === 0 || this.#isStopping || this.#isPaused) return;
    const { claims, deleted, nextDueMs, generation } = await this.#leases.claim(partition, limit);
    const labels = { topic: this.#topic.name, group: this.#declaration.group };
    if (deleted > 0) this.#context.metrics.lostByTrim.inc(labels, deleted);
    if (generation !== this.#leases.generation(partition)) return;
    const holds = claims.map(({ entry, count, attempts }) =>
      holdOf(new Delivery(this.#topic, partition, entry), count, attempts, generation),
    );
    const takenOver = claims.filter(({ attempts }) => attempts.losses > 0).length;
    if (takenOver > 0) this.#context.metrics.takeovers.inc(labels, takenOver);
    if (holds.length > 0) this.#deliver(holds);
    if (claims.length === limit) this.#sweepWithin(0);
    else if (nextDueMs !== undefined) this.#sweepWithin(nextDueMs - this.#context.clock.now());
  }

  #sweepWithin(waitMs: number): void {
    const at = performance.now() + Math.max(0, waitMs);
    if (at >= this.#nextSweepAt) return;
    this.#nextSweepAt = at;
    this.#wakeSweep?.();
  }

  async #renew(): Promise<void> {
    const { leaseMs } = this.#declaration;
    while (!this.#stopped.signal.aborted) {
      const due = new Map<number, Hold<D>[]>();
      for (const hold of this.#work.holds) {
        const age = performance.now() - hold.renewedAt;
        if (hold.isLost || age < leaseMs / 3) continue;
        if (age >= leaseMs) this.#work.lose([hold], leaseLost("it was not renewed in time"));
        else due.set(hold.partition, [...(due.get(hold.partition) ?? []), hold]);
      }
      await Promise.all([...due].map(([partition, holds]) => this.#renewPartition(partition, holds)));
      await systemClock.sleep(Math.min(leaseMs / 6, SWEEP_MS), this.#stopped.signal);
    }
  }

  async #renewPartition(partition: number, holds: readonly Hold<D>[]): Promise<void> {
    for (let first = 0; first < holds.length; first += RENEW_CHUNK_MAX) {
      const chunk = holds.slice(first, first + RENEW_CHUNK_MAX);
      const askedAt = performance.now();
      try {
        const renewed = await this.#leases.renew(partition, chunk);
        for (const [i, hold] of chunk.entries()) {
          if (renewed[i]) hold.renewedAt = askedAt;
          else if (this.#work.holds.has(hold)) this.#work.lose([hold], leaseLost("another member holds it"));
        }
      } catch (error) {
        this.#context.log.debug({ partition, error }, "leases could not be renewed, it will be repeated");
      }
    }
  }

  async #disown(partition: number): Promise<void> {
    while ((await this.#leases.disown(partition, DISOWN_MAX)) === DISOWN_MAX) {
      // The pending list shrinks with every call.
    }
  }

  async #dropConsumers(): Promise<void> {
    if (performance.now() - this.#consumersSweptAt < CONSUMER_SWEEP_MS) return;
    this.#consumersSweptAt = performance.now();
    for (const partition of this.#partitions) {
      await this.#leases.dropConsumers(partition, CONSUMER_IDLE_MS, CONSUMER_DROP_MAX).catch((error: unknown) => {
        this.#context.log.debug({ partition, error }, "old member names could not be dropped");
      });
    }
  }

  get #isStopping(): boolean {
    return this.#stopping.signal.aborted;
  }
}

function leaseLost(reason: string): AppError {
  return new AppError("LEASE_LOST", reason);
}
