/**
 * Two members with all kinds of groups over one topic, to be struck at random, and the sink that their handlers write to. The sink
 * judges while it goes on: whatever is finished twice is allowed, whatever is skipped is not.
 */

import { systemClock } from "../../lib/clock.ts";
import { Bury, type ConsumeOptions, Later, type Message, openQueue, type Queue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { openRedis, type RedisConnections } from "../../lib/redis/index.ts";
import type { Service } from "../../lib/service.ts";
import { type Numbered, openTestQueue, type TestQueue } from "./queue.ts";
import { createStall, type Stall } from "./stall.ts";

export const GROUPS = {
  single: { mode: "ordered", isBatch: false },
  batch: { mode: "ordered", isBatch: true },
  parking: { mode: "ordered", isBatch: false },
  shared: { mode: "concurrent", isBatch: false },
  together: { mode: "concurrent", isBatch: true },
} as const;
export type GroupName = keyof typeof GROUPS;
export const GROUP_NAMES = Object.keys(GROUPS) as GroupName[];

/** The shortest there is. */
export const LEASE_MS = 1_000;
/** Every group buries it at its first delivery, and handles it once it was redriven. */
export const HOPELESS = "hopeless";
/** Failures in a row that park a key of the group that parks. */
const PARKING_ATTEMPTS = 3;
const STOP_MS = 5_000;

export type Failure = "throw" | "later";

/** What the handlers of one group did. */
class Sink {
  readonly faults: string[] = [];
  /** By key: numbers finished since the group was last set back, and numbers given up on. */
  readonly finished = new Map<string, Set<number>>();
  /** By key: the number up to which the group was told to pass over. */
  readonly #floors = new Map<string, number>();
  /** Likewise, the highest ever: what was handed out before a seek may reach the sink after it. */
  readonly #jumps = new Map<string, number>();
  /** Failures to come, by key. */
  readonly failures = new Map<string, { left: number; kind: Failure }>();
  readonly #last = new Map<string, number>();
  readonly #tokens = new Map<string, number>();

  constructor(readonly group: GroupName) {}

  /** The group is about to be set behind all that is published. */
  passOver(published: ReadonlyMap<string, number>): void {
    for (const [key, count] of published) {
      this.#floors.set(key, count);
      this.#jumps.set(key, count);
    }
  }

  /** The group is about to be set to the beginning. */
  beginAgain(): void {
    this.#floors.clear();
    this.finished.clear();
  }

  async take(message: Message<Numbered>, token: number): Promise<void> {
    const { key, data, type, redrives } = message;
    if (data.n % 6 === 0) await Bun.sleep(1);
    const isOrdered = GROUPS[this.group].mode === "ordered" && redrives === 0;
    if (isOrdered) {
      // Who lost its lease may find out late; a sink refuses it by its token.
      if (token < (this.#tokens.get(key) ?? 0)) return;
      this.#tokens.set(key, token);
      const before = Math.max(this.#last.get(key) ?? 0, this.#jumps.get(key) ?? 0);
      if (data.n > before + 1) this.faults.push(`${this.group} ${key}: ${data.n} was handed out after ${before}`);
    }
    const failure = this.failures.get(key);
    if (failure && failure.left > 0) {
      failure.left -= 1;
      throw failure.kind === "later" ? new Later(3) : new Error("as told");
    }
    if (isOrdered) this.#last.set(key, data.n);
    if (type === HOPELESS && redrives === 0) throw new Bury("hopeless");
    const finished = this.finished.get(key) ?? new Set();
    finished.add(data.n);
    this.finished.set(key, finished);
  }

  /** What is not finished though it was published and not passed over. */
  missing(published: ReadonlyMap<string, number>, given: ReadonlySet<string>): string[] {
    const missing: string[] = [];
    for (const [key, count] of published) {
      for (let n = (this.#floors.get(key) ?? 0) + 1; n <= count; n++) {
        if (!this.finished.get(key)?.has(n) && !given.has(`${key} ${n}`)) missing.push(`${this.group} ${key} ${n}`);
      }
    }
    return missing;
  }
}

interface Member {
  readonly redis: RedisConnections;
  readonly stall: Stall;
  readonly queue: Queue;
  services: Service[];
}

export class QueueWorld implements AsyncDisposable {
  readonly t: TestQueue;
  readonly sinks: Readonly<Record<GroupName, Sink>>;
  readonly #members = new Map<string, Member>();

  private constructor(t: TestQueue) {
    this.t = t;
    const sinks = GROUP_NAMES.map((group) => [group, new Sink(group)]);
    this.sinks = Object.fromEntries(sinks) as Record<GroupName, Sink>;
  }

  static async open(name: string, members: readonly string[]): Promise<QueueWorld> {
    const world = new QueueWorld(await openTestQueue(name));
    for (const member of members) await world.#open(member);
    return world;
  }

  isUp(member: string): boolean {
    return this.#members.get(member)!.services.length > 0;
  }

  async start(member: string): Promise<void> {
    const { queue, services } = this.#members.get(member)!;
    services.push(...GROUP_NAMES.map((group) => queue.consume(this.t.topic, this.#options(group))));
    await Promise.all(services.map((service) => service.start()));
  }

  /** Gracefully, or as a crash would: leases are left as they are. */
  async stop(member: string, isKill: boolean): Promise<void> {
    const services = this.#members.get(member)!.services.splice(0);
    await Promise.all(
      services.map((service) => service.stop(isKill ? AbortSignal.abort() : AbortSignal.timeout(STOP_MS))),
    );
  }

  /** What the member sends stands still for so long. */
  stall(member: string, ms: number): void {
    this.#members.get(member)!.stall.hold(ms);
  }

  async deadLetters(group: GroupName): Promise<{ key: string; n: number; type: string; entry: string }[]> {
    const letters = await this.t.deadLetters(group);
    return letters.map(({ k, d, t, entry }) => ({ key: k!, n: JSON.parse(d!).n, type: t!, entry: entry! }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const member of this.#members.keys()) await this.stop(member, true);
    for (const { redis } of this.#members.values()) await redis.close();
    await this.t[Symbol.asyncDispose]();
  }

  async #open(member: string): Promise<void> {
    const { url, keys, metrics } = this.t.store;
    const redis = await openRedis(url, member, silentLog);
    const queue = openQueue({ redis, keys, metrics, clock: systemClock, log: silentLog, member });
    this.#members.set(member, { redis, queue, stall: createStall(redis.commands), services: [] });
    await this.start(member);
  }

  #options(group: GroupName): ConsumeOptions<Numbered> {
    const sink = this.sinks[group];
    const { mode, isBatch } = GROUPS[group];
    const parking = group === "parking" ? ({ onPoison: "park", maxAttempts: PARKING_ATTEMPTS } as const) : {};
    const base = { group, mode, leaseMs: LEASE_MS, backoff: [2], batchMax: 7, ...parking };
    if (!isBatch) return { ...base, handle: (message, { token }) => sink.take(message, token) };
    return {
      ...base,
      async handleBatch(messages, { token }) {
        for (const message of messages) await sink.take(message, token);
      },
    };
  }
}
