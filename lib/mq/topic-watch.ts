/**
 * Tells who waits for new entries of a topic in this process, however many they are, by one blocked read on a connection of its own
 * (in a Cluster one per partition, for a read must not cross slots). It reads while somebody waits, and no more of a partition
 * than one entry: what is there is the waiting ones' to find out.
 */

import { backoffMs, systemClock } from "../clock.ts";
import { outcomeOf, type RedisClient } from "../redis/index.ts";
import type { QueueContext } from "./consumer.ts";
import type { StreamEntry } from "./message.ts";
import { Quarantine } from "./quarantine.ts";

/** On a busy topic waiting ones are woken no more often than this: what comes meanwhile they find together. */
const WAKE_EVERY_MS = 2;
const FAILURE_BACKOFF = { firstMs: 50, maxMs: 1_000, jitter: 0.2 };

/** Called with the partitions that have new entries. */
export type OnEntries = (partitions: readonly number[]) => void;

export class TopicWatch {
  readonly #context: QueueContext;
  readonly #topic: string;
  readonly #watchers = new Set<OnEntries>();
  readonly #connections = new Set<RedisClient>();
  #watching: Promise<unknown> = Promise.resolve();
  /** Names the watching that goes on; one that is no longer named ends, also where it is still blocked. */
  #run: symbol | undefined;
  #ready: Promise<unknown> = Promise.resolve();

  constructor(context: QueueContext, topic: string) {
    this.#context = context;
    this.#topic = topic;
  }

  /** Resolves when no entry that is appended from now on can be missed. Never rejects. */
  async add(onEntries: OnEntries): Promise<void> {
    this.#watchers.add(onEntries);
    if (!this.#run) this.#start();
    await this.#ready;
  }

  remove(onEntries: OnEntries): void {
    this.#watchers.delete(onEntries);
  }

  async close(): Promise<void> {
    this.#watchers.clear();
    for (const connection of this.#connections) connection.disconnect();
    await this.#watching;
  }

  #start(): void {
    const { keys, redis } = this.#context;
    const partitions = Array.from({ length: keys.partitions }, (_, partition) => partition);
    const shares = redis.topology === "cluster" ? partitions.map((partition) => [partition]) : [partitions];
    const run = Symbol(this.#topic);
    this.#run = run;
    const begun = shares.map(() => Promise.withResolvers<void>());
    this.#ready = Promise.all(begun.map(({ promise }) => promise));
    this.#watching = Promise.all(shares.map((share, i) => this.#watch(run, share, begun[i]!.resolve)));
  }

  async #watch(run: symbol, partitions: readonly number[], onReady: () => void): Promise<void> {
    const { keys, redis, log, metrics } = this.#context;
    const quarantine = new Quarantine(this.#context);
    const partitionOf = new Map(partitions.map((partition) => [keys.topic(this.#topic, partition), partition]));
    const positions = new Map<string, string>();
    const connection = redis.blocking(`${this.#topic}/#watch`);
    this.#connections.add(connection);
    for (let failures = 0; this.#watchers.size > 0 && this.#run === run; ) {
      try {
        const open = [...partitionOf.keys()].filter((stream) => !quarantine.has(stream));
        await this.#findEnds(
          open.filter((stream) => !positions.has(stream)),
          positions,
        );
        onReady();
        const touched = await readOnce(connection, open, positions, quarantine.blockMs);
        failures = 0;
        if (touched.length === 0) continue;
        // Before the others look, so that what comes later wakes them again.
        await this.#findEnds(touched, positions);
        this.#notify(touched.map((stream) => partitionOf.get(stream)!));
        await systemClock.sleep(WAKE_EVERY_MS);
      } catch (error) {
        if (this.#watchers.size === 0 || this.#run !== run) break;
        failures += 1;
        metrics.redisErrors.inc({ class: outcomeOf(error) });
        log.debug({ topic: this.#topic, error }, "watching a topic failed, it will be repeated");
        if (outcomeOf(error) === "bug") await quarantine.inspect([...partitionOf.keys()]);
        await systemClock.sleep(backoffMs(failures, FAILURE_BACKOFF));
      }
    }
    // Nothing is awaited from the last look at the watchers to here: one that comes now begins anew.
    if (this.#run === run) this.#run = undefined;
    this.#connections.delete(connection);
    connection.disconnect();
    onReady();
  }

  async #findEnds(streams: readonly string[], positions: Map<string, string>): Promise<void> {
    const { commands } = this.#context.redis;
    const last = await Promise.all(streams.map((stream) => commands.xrevrange(stream, "+", "-", "COUNT", 1)));
    for (const [i, stream] of streams.entries()) positions.set(stream, last[i]![0]?.[0] ?? "0-0");
  }

  #notify(partitions: readonly number[]): void {
    for (const onEntries of [...this.#watchers]) onEntries(partitions);
  }
}

/** Resolves to the streams that have entries behind their positions, or to none after `blockMs`. */
async function readOnce(
  connection: RedisClient,
  streams: readonly string[],
  positions: ReadonlyMap<string, string>,
  blockMs: number,
): Promise<readonly string[]> {
  if (streams.length === 0) {
    await systemClock.sleep(blockMs);
    return [];
  }
  const from = streams.map((stream) => positions.get(stream)!);
  const reply = await connection.xread("COUNT", 1, "BLOCK", blockMs, "STREAMS", ...streams, ...from);
  return Array.isArray(reply) ? (reply as [string, StreamEntry[]][]).map(([stream]) => stream) : [];
}
