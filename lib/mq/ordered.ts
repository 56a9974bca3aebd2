/**
 * A member of an ordered group. It takes leases of partitions up to its share, reads them from their checkpoints without a
 * Redis consumer group, and commits what is finished, fenced, some times a second.
 *
 *   look (5/s) ──► live members ──► share ──► too few: acquire free leases · too many: hand surplus over, nothing in hand lost
 *
 * A commit per batch was tried: at 1 000 messages/s over 16 partitions it is 1 000 scripts/s per group, each an AOF write, for
 * a gain of 0.25 s of repeated work after a crash. Consumers are idempotent anyway.
 */

import { systemClock } from "../clock.ts";
import { newId } from "../id.ts";
import { createService, type Service, whenAborted } from "../service.ts";
import type { Declaration, QueueContext } from "./consumer.ts";
import { registerEverywhere, registerGroup } from "./group.ts";
import { findLegacy, HeldPartition, type Legacy } from "./held-partition.ts";
import { InFlight } from "./in-flight.ts";
import { acquireLease, type Grant, type LeaseSite } from "./lease.ts";
import { Membership } from "./membership.ts";
import { Reader } from "./reader.ts";
import type { Topic } from "./topic.ts";
import type { GroupCounters } from "./work.ts";

/** How soon a change among the members, or a freed lease, is seen. */
const LOOK_MS = 200;
/**
 * What is finished is committed within this, all partitions in one pipeline: the work that a crash repeats. 100 ms were 480 commits a
 * second for three groups of 16 partitions, a quarter of a script per message at 2 000/s.
 */
const COMMIT_MS = 250;

export function createOrderedConsumer<D>(
  context: QueueContext,
  topic: Topic<D>,
  declaration: Declaration<D>,
  onStopped: () => void,
): Service {
  const consumer = new OrderedConsumer(context, topic, declaration);
  return createService(
    `${topic.name}/${declaration.group}`,
    () => consumer.start(),
    (signal) => consumer.stop(signal).finally(onStopped),
  );
}

class OrderedConsumer<D> {
  readonly #context: QueueContext;
  readonly #topic: Topic<D>;
  readonly #declaration: Declaration<D>;
  readonly #session: string;
  readonly #membership: Membership;
  readonly #inFlight: InFlight;
  readonly #counters: GroupCounters;
  readonly #held = new Map<number, HeldPartition<D>>();
  /** Partitions not to be acquired: a handler of a lost or surplus lease still has something in hand. */
  readonly #leaving = new Map<number, Promise<void>>();
  readonly #readers = new Map<number, Reader>();
  readonly #stopping = new AbortController();
  readonly #stoppingHard = new AbortController();
  #loop: Promise<void> | undefined;
  #commitTimer: ReturnType<typeof setTimeout> | undefined;
  #failures = 0;

  constructor(context: QueueContext, topic: Topic<D>, declaration: Declaration<D>) {
    this.#context = context;
    this.#topic = topic;
    this.#declaration = declaration;
    this.#session = newId(context.clock.now());
    this.#membership = new Membership(context, topic.name, declaration.group, declaration.leaseMs);
    this.#inFlight = new InFlight(declaration.inFlightMax);
    const { delivered, acked, retried, expired } = context.metrics;
    const { name } = topic;
    const { group } = declaration;
    this.#counters = {
      delivered: delivered.labels(name, group),
      acked: acked.labels(name, group),
      retried: retried.labels(name, group),
      expired: expired.labels(name, group),
    };
  }

  async start(): Promise<void> {
    await registerEverywhere(this.#context, this.#topic.name, this.#declaration as Declaration<unknown>);
    await this.#look();
    this.#loop = this.#keepLooking();
  }

  async stop(signal: AbortSignal): Promise<void> {
    this.#stopping.abort();
    if (signal.aborted) this.#stoppingHard.abort();
    signal.addEventListener("abort", () => this.#stoppingHard.abort(), { once: true });
    await this.#loop;
    await this.#membership.leave().catch((error: unknown) => {
      this.#context.log.debug({ error }, "a member could not say that it leaves; its time runs out");
    });
    for (const held of [...this.#held.values()]) this.#handOver(held);
    await Promise.race([Promise.all(this.#leaving.values()), whenAborted(this.#stoppingHard.signal)]);
    clearTimeout(this.#commitTimer);
    await Promise.all([...new Set(this.#readers.values())].map((reader) => reader.stop()));
  }

  async #keepLooking(): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      // Leases run by Redis TIME, so their upkeep runs on real time, whatever clock the handlers' back-off is given.
      await systemClock.sleep(LOOK_MS, this.#stopping.signal);
      if (!this.#stopping.signal.aborted) await this.#look();
    }
  }

  async #look(): Promise<void> {
    for (const held of [...this.#held.values()]) {
      held.takeAside();
      if (!held.lease.isHeld() || !held.lease.isRenewalDue()) continue;
      this.#markDirty(held);
      held.audit().catch((error: unknown) => this.#failed(error, "a partition could not be audited"));
    }
    try {
      const { quota, isSought } = await this.#membership.look();
      // Their leases are fenced: the next commit says so, and they are acquired anew at their new place.
      if (isSought) for (const held of this.#held.values()) this.#markDirty(held);
      const surplus = [...this.#held.values()].slice(quota);
      for (const held of surplus) this.#handOver(held);
      if (this.#held.size < quota) await this.#acquire(quota);
      this.#failures = 0;
    } catch (error) {
      this.#failed(error, "the group's state could not be read");
    }
  }

  #failed(error: unknown, message: string): void {
    this.#failures += 1;
    const { log } = this.#context;
    const fields = { topic: this.#topic.name, group: this.#declaration.group, error };
    log[this.#failures === 1 ? "warn" : "debug"](fields, message);
  }

  /** Asks for free partitions, as many at a time as are wanting, until the share is reached or none is left to ask for. */
  async #acquire(quota: number): Promise<void> {
    const { partitions } = this.#context.keys;
    const candidates = Array.from({ length: partitions }, (_, partition) => partition).filter(
      (partition) => !this.#held.has(partition) && !this.#leaving.has(partition),
    );
    while (candidates.length > 0 && this.#held.size < quota && !this.#stopping.signal.aborted) {
      const asked = candidates.splice(0, quota - this.#held.size);
      await Promise.all(asked.map((partition) => this.#take(partition)));
    }
  }

  async #take(partition: number): Promise<void> {
    const context = this.#context;
    const declaration = this.#declaration as Declaration<unknown>;
    const site: LeaseSite = { context, topic: this.#topic.name, declaration, partition, session: this.#session };
    const grant = await acquireLease(site);
    if (grant === "held") return;
    if (grant === "unregistered") {
      // All was lost since the start; what came after must not be missed.
      await registerGroup(context, this.#topic.name, declaration, partition, "first");
      return;
    }
    const labels = { topic: this.#topic.name, group: declaration.group };
    if (grant.previousOwner !== "") {
      context.metrics.takeovers.inc(labels);
      context.log.info({ ...labels, partition, from: grant.previousOwner, token: grant.token }, "partition taken over");
    }
    const legacy = await findLegacy(site, this.#topic, grant.progress.open);
    const open = legacy.open.map(({ entry }) => entry);
    this.#hold(site, { ...grant, progress: { ...grant.progress, open } }, legacy);
  }

  #hold(site: LeaseSite, grant: Grant, legacy: Legacy<D>): void {
    const { partition } = site;
    const reader = this.#readerOf(partition);
    const held = new HeldPartition<D>({
      site,
      topic: this.#topic,
      declaration: this.#declaration,
      grant,
      legacy,
      inFlight: this.#inFlight,
      counters: this.#counters,
      wake: (target) => reader.wake(target),
      onChanged: (target) => this.#markDirty(target),
      onLost: (target) => this.#lost(target),
    });
    this.#held.set(partition, held);
    held.run();
    reader.add(held);
    held.audit().catch((error: unknown) => this.#failed(error, "a partition could not be audited"));
  }

  /** One connection reads all partitions; in a Cluster, where a read must not cross slots, one each. */
  #readerOf(partition: number): Reader {
    const isShared = this.#context.redis.topology !== "cluster";
    const existing = this.#readers.get(isShared ? 0 : partition);
    if (existing) return existing;
    const name = `${this.#topic.name}/${this.#declaration.group}${isShared ? "" : `/${partition}`}`;
    const reader = new Reader(this.#context, name, this.#declaration);
    this.#readers.set(isShared ? 0 : partition, reader);
    reader.start();
    return reader;
  }

  #markDirty(held: HeldPartition<D>): void {
    held.isDirty = true;
    this.#commitTimer ??= setTimeout(() => this.#commit(), COMMIT_MS);
  }

  #commit(): void {
    this.#commitTimer = undefined;
    for (const held of this.#held.values()) {
      if (!held.isDirty) continue;
      if (held.lease.isCommitting) {
        // Sent before the latest results: they go with the next.
        this.#markDirty(held);
        continue;
      }
      held.isDirty = false;
      void held.lease.commit().then((isCommitted) => {
        if (!isCommitted && held.lease.isHeld()) this.#markDirty(held);
        // A partition whose commit failed, or whose dead letters waited, takes no entries until now.
        this.#readers.get(this.#context.redis.topology === "cluster" ? held.partition : 0)?.wake(held);
      });
    }
  }

  #handOver(held: HeldPartition<D>): void {
    this.#detach(held, held.handOver(this.#stoppingHard.signal));
  }

  #lost(held: HeldPartition<D>): void {
    if (this.#held.get(held.partition) === held) this.#detach(held, held.idle());
  }

  /** Reads it no more; the partition is free to be acquired again when `left` settles. */
  #detach(held: HeldPartition<D>, left: Promise<void>): void {
    const { partition } = held;
    this.#held.delete(partition);
    this.#readerOf(partition).remove(held);
    const leaving = left
      .catch((error: unknown) => this.#failed(error, "a partition could not be handed over"))
      .finally(() => this.#leaving.delete(partition));
    this.#leaving.set(partition, leaving);
  }
}
