/**
 * Pulling from a concurrent group. What a service has in hand is pending under the consumer `#pull`, and `retries` says until when;
 * members in process and services take from the same list, each what the other does not hold.
 */

import { parseAttempts, resume } from "./attempts.ts";
import type { QueueContext } from "./consumer.ts";
import { deadLetterOf } from "./dead-letter.ts";
import { DeliveryLeases, type Fence, type Settlement, type SettleOutcome } from "./delivery-lease.ts";
import { registerGroup } from "./group.ts";
import { Delivery } from "./message.ts";
import {
  type Failure,
  type Handed,
  judge,
  type Outlet,
  PULL_MEMBER,
  type PullGroup,
  type PullOutcome,
  type Taken,
} from "./pull-outlet.ts";
import type { PullRef } from "./pull-token.ts";
import type { Topic } from "./topic.ts";

/** Answers per script call: some 0.5 ms of Redis. */
const CHUNK_MAX = 100;
const OUTCOMES: Readonly<Record<SettleOutcome, PullOutcome>> = { settled: "ok", stale: "stale", gone: "gone" };

interface Item {
  readonly hold: Fence;
  readonly settlement: Settlement;
}

export class ConcurrentOutlet<D> implements Outlet<D> {
  mayRegister = true;
  readonly #context: QueueContext;
  readonly #topic: Topic<D>;
  readonly #group: PullGroup;
  readonly #leases: DeliveryLeases;

  constructor(context: QueueContext, topic: Topic<D>, group: PullGroup) {
    this.#context = context;
    this.#topic = topic;
    this.#group = group;
    this.#leases = this.#leasesOf(group.leaseMs);
  }

  async open(): Promise<readonly number[]> {
    return Array.from({ length: this.#context.keys.partitions }, (_, partition) => partition);
  }

  async take(partition: number, limit: number, bytesMax: number): Promise<Taken<D>> {
    const given = await this.#receive(partition, limit, bytesMax);
    if (!given) return { handed: [], isMore: false, nextDueMs: undefined };
    const { metrics } = this.#context;
    const labels = { topic: this.#topic.name, group: this.#group.group };
    if (given.deleted > 0) metrics.lostByTrim.inc(labels, given.deleted);
    const handed: Handed<D>[] = [];
    const unseen: Item[] = [];
    for (const { entry, count, attempts } of given.claims) {
      const delivery = new Delivery(this.#topic, partition, entry);
      resume(delivery, attempts);
      if (attempts.losses > 0) metrics.takeovers.inc(labels);
      const verdict = judge(this.#context, this.#topic.name, this.#group, delivery, attempts);
      if (verdict === "hand" || verdict === "suspect") {
        const { leaseUntil, generation } = given;
        handed.push({ delivery, fence: `${generation}.${count}`, leaseUntil, isSuspect: verdict === "suspect" });
      } else {
        const settlement: Settlement =
          verdict === "pass"
            ? { kind: "pass" }
            : { kind: "bury", letter: deadLetterOf(delivery, verdict.reason, verdict.error) };
        unseen.push({ hold: { entry: entry[0], count }, settlement });
      }
    }
    if (unseen.length > 0) await this.#settle(partition, given.generation, unseen);
    return { handed, isMore: given.claims.length > 0, nextDueMs: given.nextDueMs };
  }

  ack(refs: readonly PullRef[]): Promise<readonly PullOutcome[]> {
    return this.#settleRefs(refs, { kind: "ack" });
  }

  release(refs: readonly PullRef[], waitMs: number): Promise<readonly PullOutcome[]> {
    return this.#settleRefs(refs, { kind: "retry", waitMs });
  }

  async fail(ref: PullRef, { error, waitMs, isHopeless }: Failure): Promise<PullOutcome> {
    const { redis, keys, clock, metrics } = this.#context;
    const { group, maxAttempts, retryMs } = this.#group;
    const [text, delivery] = await Promise.all([
      redis.commands.hget(keys.attempts(this.#topic.name, ref.partition, group), ref.entry),
      this.find(ref),
    ]);
    if (!delivery) return "gone";
    const attempts = parseAttempts(text ?? "");
    resume(delivery, attempts);
    delivery.note(clock.now(), PULL_MEMBER, error);
    const failed = attempts.failed + 1;
    const isOver = isHopeless || failed >= maxAttempts;
    const firstFailureMs = attempts.firstFailureMs || clock.now();
    const settlement: Settlement = isOver
      ? { kind: "bury", letter: deadLetterOf(delivery, isHopeless ? "bury" : "attempts", error) }
      : {
          ...{ kind: "retry", waitMs: waitMs ?? retryMs(failed) },
          record: { failed, losses: attempts.losses, firstFailureMs, history: delivery.history },
        };
    // The script refuses it when anything has happened to the delivery since its record was read.
    const [outcome] = await this.#settleRefs([ref], settlement);
    if (outcome === "ok" && !isOver) metrics.retried.inc({ topic: this.#topic.name, group });
    return outcome!;
  }

  async renew(refs: readonly PullRef[], leaseMs: number): Promise<readonly number[]> {
    const leases = this.#leasesOf(leaseMs);
    return this.#inChunks(refs, (partition, generation, chunk) =>
      leases.renew(partition, chunk.map(fenceOf), generation).catch((error: unknown) => {
        if (!isGroupGone(error)) throw error;
        return chunk.map(() => 0);
      }),
    );
  }

  async find(ref: PullRef): Promise<Delivery<D> | undefined> {
    const { redis, keys } = this.#context;
    const stream = keys.topic(this.#topic.name, ref.partition);
    const [entry] = await redis.commands.xrange(stream, ref.entry, ref.entry);
    return entry && new Delivery(this.#topic, ref.partition, entry);
  }

  #leasesOf(leaseMs: number): DeliveryLeases {
    return new DeliveryLeases(this.#context, this.#topic.name, this.#group.group, leaseMs, PULL_MEMBER);
  }

  /** Registers the group first where it is not, or where it was lost. */
  async #receive(partition: number, limit: number, bytesMax: number) {
    try {
      const given = await this.#leases.receive(partition, limit, bytesMax);
      if (given || !this.mayRegister) return given;
      await registerGroup(this.#context, this.#topic.name, this.#group, partition, this.#group.start);
    } catch (error) {
      if (!isGroupGone(error)) throw error;
      if (!this.mayRegister) return undefined;
      // What came since the loss must not be missed.
      await registerGroup(this.#context, this.#topic.name, this.#group, partition, "first");
    }
    return this.#leases.receive(partition, limit, bytesMax);
  }

  #settleRefs(refs: readonly PullRef[], settlement: Settlement): Promise<readonly PullOutcome[]> {
    return this.#inChunks(refs, (partition, generation, chunk) => {
      const items = chunk.map((ref) => ({ hold: fenceOf(ref), settlement }));
      return this.#settle(partition, generation, items);
    });
  }

  async #settle(partition: number, generation: number, items: readonly Item[]): Promise<readonly PullOutcome[]> {
    const { metrics } = this.#context;
    const labels = { topic: this.#topic.name, group: this.#group.group };
    try {
      const { outcomes, evicted } = await this.#leases.settle(partition, items, generation);
      const buried = items.filter(({ settlement }, i) => settlement.kind === "bury" && outcomes[i] === "settled");
      if (buried.length > 0) metrics.buried.inc(labels, buried.length);
      if (evicted > 0) metrics.deadLettersEvicted.inc(labels, evicted);
      return outcomes.map((outcome) => OUTCOMES[outcome]);
    } catch (error) {
      // A seek or a drop: with the consumer group its deliveries are nobody's.
      if (!isGroupGone(error)) throw error;
      return items.map(() => "stale");
    }
  }

  /** By generation, for each has its own consumer group, and in chunks; results in the order of `refs`. */
  async #inChunks<R>(
    refs: readonly PullRef[],
    act: (partition: number, generation: number, chunk: readonly PullRef[]) => Promise<readonly R[]>,
  ): Promise<readonly R[]> {
    const results = new Map<PullRef, R>();
    for (const [generation, same] of Map.groupBy(refs, generationOf)) {
      for (let first = 0; first < same.length; first += CHUNK_MAX) {
        const chunk = same.slice(first, first + CHUNK_MAX);
        const replies = await act(chunk[0]!.partition, generation, chunk);
        for (const [i, ref] of chunk.entries()) results.set(ref, replies[i]!);
      }
    }
    return refs.map((ref) => results.get(ref)!);
  }
}

function generationOf({ fence }: PullRef): number {
  return Number(fence.split(".")[0]);
}

function fenceOf({ entry, fence }: PullRef): Fence {
  return { entry, count: Number(fence.split(".")[1]) };
}

function isGroupGone(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith("NOGROUP");
}
