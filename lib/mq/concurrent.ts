/**
 * A member of a concurrent group: a Redis consumer group with its pending list. Any member takes any message, in any order.
 *
 *   XREADGROUP ──► in hand ──ack──► gone
 *                    │ ├──retry──► waits under the name #retry until due ──claim──► in hand (of any member)
 *                    │ └──bury──► dead letters
 *                    └─ lease runs out ──claim──► in hand of another, with a higher token; answers of the first are refused
 */

import { backoffMs, systemClock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { outcomeOf, type RedisClient, toAppError } from "../redis/index.ts";
import { createService, type Service } from "../service.ts";
import type { Declaration, QueueContext } from "./consumer.ts";
import { DeliveryLeases, type Hold, NO_ATTEMPTS } from "./delivery-lease.ts";
import { DeliveryWork, holdOf } from "./delivery-work.ts";
import { registerEverywhere } from "./group.ts";
import { Delivery, type StreamEntry } from "./message.ts";
import { Quarantine } from "./quarantine.ts";
import type { Topic } from "./topic.ts";

/** How late a retry or a takeover may be noticed. One small script per partition. */
const SWEEP_MS = 1_000;
/** Claims per partition and sweep; a sweep that is full is followed by another at once. */
const CLAIM_MAX = 100;
const RENEW_CHUNK_MAX = 100;
/** Entries of its last life that a member gives back per script call. */
const DISOWN_MAX = 100;
/** Member names that hold nothing are forgotten after an hour; looked at every ten minutes. */
const CONSUMER_IDLE_MS = 3_600_000;
const CONSUMER_SWEEP_MS = 600_000;
const CONSUMER_DROP_MAX = 100;
/** Blocked reads of a Cluster are not ended from outside: this is what a stop may wait for them. */
const CLUSTER_BLOCK_MS = 1_000;
const FAILURE_BACKOFF = { firstMs: 50, maxMs: 1_000, jitter: 0.2 };

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
  readonly #quarantine: Quarantine;
  readonly #partitions: readonly number[];
  readonly #connections: RedisClient[] = [];
  readonly #stopping = new AbortController();
  readonly #stopped = new AbortController();
  readonly #clientIds = new Map<RedisClient, number>();
  #reading: Promise<unknown> = Promise.resolve();
  #upkeep: Promise<unknown> = Promise.resolve();
  #whenRoom: (() => void)[] = [];
  #firstStream = 0;
  #nextSweepAt = 0;
  #wakeSweep: (() => void) | undefined;
  #consumersSweptAt = performance.now();

  constructor(context: QueueContext, topic: Topic<D>, declaration: Declaration<D>) {
    this.#context = context;
    this.#topic = topic;
    this.#declaration = declaration;
    this.#quarantine = new Quarantine(context);
    this.#partitions = Array.from({ length: context.keys.partitions }, (_, partition) => partition);
    const { name } = topic;
    const { group, leaseMs } = declaration;
    this.#leases = new DeliveryLeases(context, name, group, leaseMs);
    const { delivered, acked, retried } = context.metrics;
    this.#work = new DeliveryWork<D>({
      context,
      topic: name,
      declaration,
      leases: this.#leases,
      counters: {
        delivered: delivered.labels(name, group),
        acked: acked.labels(name, group),
        retried: retried.labels(name, group),
      },
      onRoom: () => {
        for (const resolve of this.#whenRoom.splice(0)) resolve();
      },
      onRetry: (waitMs) => this.#sweepWithin(waitMs),
    });
  }

  async start(): Promise<void> {
    await registerEverywhere(this.#context, this.#topic.name, this.#declaration as Declaration<unknown>);
    try {
      await Promise.all(this.#partitions.map((partition) => this.#disown(partition)));
    } catch (error) {
      throw toAppError(error);
    }
    // In a Cluster a read must not cross slots: one connection per partition.
    const readers =
      this.#context.redis.topology === "cluster"
        ? this.#partitions.map((partition) => [partition])
        : [this.#partitions];
    this.#reading = Promise.all(readers.map((partitions) => this.#read(partitions)));
    this.#upkeep = Promise.all([this.#sweep(), this.#renew()]);
  }

  async stop(signal: AbortSignal): Promise<void> {
    this.#stopping.abort();
    this.#wakeSweep?.();
    for (const resolve of this.#whenRoom.splice(0)) resolve();
    const aborted = new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      else signal.addEventListener("abort", () => resolve(), { once: true });
    });
    this.#work.releaseWaiting();
    await Promise.race([aborted, this.#endReads().then(() => this.#work.idle())]);
    this.#stopped.abort();
    for (const hold of this.#work.holds) hold.lose(new AppError("OVERLOADED", "the process is stopping"));
    for (const connection of this.#connections) connection.disconnect();
    await Promise.all([this.#reading, this.#upkeep]);
  }

  /** Stopping waits for reads under way. UNBLOCK reaches one node, so on a Cluster they are short instead. */
  get #blockMs(): number {
    const { blockMs } = this.#quarantine;
    return this.#context.redis.topology === "cluster" ? Math.min(CLUSTER_BLOCK_MS, blockMs) : blockMs;
  }

  /** Ends blocked reads from outside, so that what they were just given is known and can be given back. */
  async #endReads(): Promise<void> {
    if (this.#context.redis.topology === "cluster") {
      await this.#reading;
      return;
    }
    let isEnded = false;
    void this.#reading.then(() => {
      isEnded = true;
    });
    const { redis, log } = this.#context;
    for (let failures = 0; !isEnded && failures < 3 && !this.#stopped.signal.aborted; ) {
      for (const connection of this.#connections) {
        const id = this.#clientIds.get(connection);
        if (id === undefined) continue;
        await redis.commands.client("UNBLOCK", id).catch((error: unknown) => {
          failures += 1;
          log.debug({ error }, "a blocked read could not be ended");
        });
      }
      await systemClock.sleep(2);
    }
  }

  async #read(partitions: readonly number[]): Promise<void> {
    const { redis, clock, log, metrics } = this.#context;
    const name = `${this.#topic.name}/${this.#declaration.group}${partitions.length === 1 ? `/${partitions[0]}` : ""}`;
    const connection = redis.blocking(name);
    this.#connections.push(connection);
    connection.on("close", () => this.#clientIds.delete(connection));
    for (let failures = 0; !this.#isStopping; ) {
      try {
        if (this.#work.room < this.#roomMin) {
          await new Promise<void>((resolve) => this.#whenRoom.push(resolve));
          continue;
        }
        this.#take(await this.#readOnce(connection, partitions));
        failures = 0;
        // Handlers that are done at once make room for a whole read.
        await nextTurn();
      } catch (error) {
        if (this.#isStopping) return;
        failures += 1;
        metrics.redisErrors.inc({ class: outcomeOf(error) });
        const fields = { topic: this.#topic.name, group: this.#declaration.group, error };
        log[failures === 1 ? "warn" : "debug"](fields, "reading a group failed, it will be repeated");
        await this.#heal(error, partitions);
        await clock.sleep(backoffMs(failures, FAILURE_BACKOFF), this.#stopping.signal);
      }
    }
  }

  async #readOnce(connection: RedisClient, partitions: readonly number[]): Promise<unknown> {
    const { keys, member, clock } = this.#context;
    const { group, batchMax } = this.#declaration;
    const open = partitions.filter((partition) => !this.#quarantine.has(keys.topic(this.#topic.name, partition)));
    if (open.length === 0) {
      await clock.sleep(this.#quarantine.blockMs, this.#stopping.signal);
      return null;
    }
    // Begins with another partition each time: the first ones must not take all the room.
    this.#firstStream += 1;
    const streams = open.map((_, i) => keys.topic(this.#topic.name, open[(this.#firstStream + i) % open.length]!));
    const perStream = Math.min(batchMax, Math.max(1, Math.floor(this.#work.room / streams.length)));
    if (!this.#clientIds.has(connection)) this.#clientIds.set(connection, await connection.client("ID"));
    if (this.#isStopping) return null;
    return connection.xreadgroup(
      ...(["GROUP", group, member, "COUNT", perStream, "BLOCK", this.#blockMs, "STREAMS"] as const),
      ...streams,
      ...streams.map(() => ">"),
    );
  }

  #take(reply: unknown): void {
    if (!Array.isArray(reply)) return;
    const byStream = new Map(
      this.#partitions.map((partition) => [this.#context.keys.topic(this.#topic.name, partition), partition]),
    );
    for (const [stream, entries] of reply as [string, StreamEntry[]][]) {
      const partition = byStream.get(stream);
      if (partition === undefined) continue;
      // The first hand-out: Redis counts it as 1.
      this.#deliver(entries.map((entry) => holdOf(new Delivery(this.#topic, partition, entry), 1, NO_ATTEMPTS)));
    }
  }

  #deliver(holds: readonly Hold<D>[]): void {
    if (this.#isStopping) this.#work.release(holds);
    else this.#work.deliver(holds);
  }

  /** NOGROUP (FLUSHALL, XGROUP DESTROY): the group begins again where it stood, or with the first entry; never behind the last. */
  async #heal(error: unknown, partitions: readonly number[]): Promise<void> {
    const { keys, log } = this.#context;
    const message = error instanceof Error ? error.message : "";
    if (/^(NOGROUP|UNBLOCKED)/.test(message)) {
      const declaration = { ...this.#declaration, start: "first" } as Declaration<unknown>;
      await registerEverywhere(this.#context, this.#topic.name, declaration).catch((cause: unknown) => {
        log.debug({ error: cause }, "a group could not be made again yet");
      });
    } else if (outcomeOf(error) === "bug") {
      await this.#quarantine.inspect(partitions.map((partition) => keys.topic(this.#topic.name, partition)));
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
        await this.#heal(failed.reason, this.#partitions);
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
    if (limit === 0 || this.#isStopping) return;
    const { claims, deleted, nextDueMs } = await this.#leases.claim(partition, limit);
    const labels = { topic: this.#topic.name, group: this.#declaration.group };
    if (deleted > 0) this.#context.metrics.lostByTrim.inc(labels, deleted);
    const holds = claims.map(({ entry, token, attempts }) =>
      holdOf(new Delivery(this.#topic, partition, entry), token, attempts),
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
        if (age >= leaseMs) this.#work.lose(hold, leaseLost("it was not renewed in time"));
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
          else if (this.#work.holds.has(hold)) this.#work.lose(hold, leaseLost("another member holds it"));
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

  /** Reads of a few entries cost Redis and us several times as much per entry: a twentieth of the hands may rest meanwhile. */
  get #roomMin(): number {
    return Math.max(1, Math.floor(this.#declaration.inFlightMax / 20));
  }

  get #isStopping(): boolean {
    return this.#stopping.signal.aborted;
  }
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function leaseLost(reason: string): AppError {
  return new AppError("LEASE_LOST", reason);
}
