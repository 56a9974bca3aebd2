/**
 * Reads new entries for a member of a concurrent group: one blocked XREADGROUP over all partitions, or one per partition in a
 * Cluster, where a read must not cross slots. What it reads is pending in the member's name from then on, so a read that
 * is not wanted any more (stop, pause) is ended from outside and what it brought is still handed on.
 */

import { backoffMs, systemClock } from "../clock.ts";
import { outcomeOf, type RedisClient } from "../redis/index.ts";
import type { QueueContext } from "./consumer.ts";
import type { StreamEntry } from "./message.ts";
import { Quarantine } from "./quarantine.ts";
import { streamGroupOf } from "./stream-group.ts";

/** Blocked reads of a Cluster are not ended from outside: this is what a stop or a pause may wait for them. */
const CLUSTER_BLOCK_MS = 1_000;
/** While a seek has reached only some partitions the two consumer groups are read in turn, each blocking for so long. */
const TURN_BLOCK_MS = 100;
/** Reads of a few entries cost Redis and us several times as much per entry: this share of the hands may rest meanwhile. */
const ROOM_SHARE_MIN = 0.05;
const FAILURE_BACKOFF = { firstMs: 50, maxMs: 1_000, jitter: 0.2 };
/** UNBLOCK may overtake the read that it is to end, so a stop repeats it; failing so often, Redis is away. */
const UNBLOCK_AGAIN_MS = 2;
const UNBLOCK_FAILURES_MAX = 3;

export interface GroupReaderParts {
  readonly context: QueueContext;
  readonly topic: string;
  readonly group: string;
  readonly batchMax: number;
  readonly inFlightMax: number;
  /** How many deliveries may be taken now. */
  room(): number;
  /** The generation of the group in a partition (stream-group.ts). */
  generation(partition: number): number;
  /** What is known of a partition's claims (delivery-lease.ts) before a read is sent. */
  knownClaims(partition: number): string;
  /** Entries that were read under a generation, and what was known before. */
  onEntries(partition: number, entries: readonly StreamEntry[], generation: number, knownClaims: string): void;
  /** Mends what can be mended before the read is repeated. Must not reject. */
  onFailure(error: unknown, partitions: readonly number[]): Promise<void>;
}

export class GroupReader {
  readonly #parts: GroupReaderParts;
  readonly #quarantine: Quarantine;
  readonly #partitionOf: ReadonlyMap<string, number>;
  readonly #connections: RedisClient[] = [];
  readonly #clientIds = new Map<RedisClient, number>();
  readonly #stopping = new AbortController();
  #reading: Promise<unknown> = Promise.resolve();
  #isPaused = false;
  #waiting: (() => void)[] = [];
  #turn = 0;

  constructor(parts: GroupReaderParts) {
    this.#parts = parts;
    const { context, topic } = parts;
    this.#quarantine = new Quarantine(context);
    this.#partitionOf = new Map(this.#partitions.map((partition) => [context.keys.topic(topic, partition), partition]));
  }

  start(): void {
    const isCluster = this.#parts.context.redis.topology === "cluster";
    const shares = isCluster ? this.#partitions.map((partition) => [partition]) : [this.#partitions];
    this.#reading = Promise.all(shares.map((partitions) => this.#read(partitions)));
  }

  /** There is room again. */
  wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** A read under way may still bring entries, within 5 s. */
  pause(): void {
    this.#isPaused = true;
    void this.#unblock();
  }

  resume(): void {
    this.#isPaused = false;
    this.wake();
  }

  /** Resolves when no read is under way. Ends blocked ones, so that what they were just given is known and can be given back. */
  async stop(signal: AbortSignal): Promise<void> {
    this.#stopping.abort();
    this.wake();
    let isEnded = false;
    const ended = this.#reading.then(() => {
      isEnded = true;
    });
    if (this.#parts.context.redis.topology === "cluster") return ended;
    for (let failures = 0; !isEnded && failures < UNBLOCK_FAILURES_MAX && !signal.aborted; ) {
      if (!(await this.#unblock())) failures += 1;
      await systemClock.sleep(UNBLOCK_AGAIN_MS);
    }
  }

  async close(): Promise<void> {
    for (const connection of this.#connections) connection.disconnect();
    await this.#reading;
  }

  get #partitions(): readonly number[] {
    return Array.from({ length: this.#parts.context.keys.partitions }, (_, partition) => partition);
  }

  get #isStopping(): boolean {
    return this.#stopping.signal.aborted;
  }

  get #blockMs(): number {
    const { blockMs } = this.#quarantine;
    return this.#parts.context.redis.topology === "cluster" ? Math.min(CLUSTER_BLOCK_MS, blockMs) : blockMs;
  }

  /** Resolves to whether Redis was asked. */
  async #unblock(): Promise<boolean> {
    const { redis, log } = this.#parts.context;
    if (redis.topology === "cluster") return true;
    try {
      const ids = this.#connections.flatMap((connection) => this.#clientIds.get(connection) ?? []);
      await Promise.all(ids.map((id) => redis.commands.client("UNBLOCK", id)));
      return true;
    } catch (error) {
      log.debug({ error }, "a blocked read could not be ended");
      return false;
    }
  }

  async #read(partitions: readonly number[]): Promise<void> {
    const { context, topic, group, inFlightMax, room, onFailure } = this.#parts;
    const roomMin = Math.max(1, Math.floor(inFlightMax * ROOM_SHARE_MIN));
    const { redis, clock, log, metrics } = context;
    const connection = redis.blocking(`${topic}/${group}${partitions.length === 1 ? `/${partitions[0]}` : ""}`);
    this.#connections.push(connection);
    connection.on("close", () => this.#clientIds.delete(connection));
    for (let failures = 0; !this.#isStopping; ) {
      try {
        if (this.#isPaused || room() < roomMin) {
          await new Promise<void>((resolve) => this.#waiting.push(resolve));
          continue;
        }
        await this.#readOnce(connection, partitions);
        failures = 0;
        // Handlers that are done at once make room for a whole read.
        await nextTurn();
      } catch (error) {
        if (this.#isStopping) return;
        failures += 1;
        metrics.redisErrors.inc({ class: outcomeOf(error) });
        log[failures === 1 ? "warn" : "debug"]({ topic, group, error }, "reading a group failed, it will be repeated");
        if (outcomeOf(error) === "bug") await this.#quarantine.inspect([...this.#partitionOf.keys()]);
        await onFailure(error, partitions);
        await clock.sleep(backoffMs(failures, FAILURE_BACKOFF), this.#stopping.signal);
      }
    }
  }

  async #readOnce(connection: RedisClient, partitions: readonly number[]): Promise<void> {
    const { context, topic, group, batchMax, room } = this.#parts;
    const { keys, member, clock } = context;
    const healthy = partitions.filter((partition) => !this.#quarantine.has(keys.topic(topic, partition)));
    if (healthy.length === 0) {
      await clock.sleep(this.#quarantine.blockMs, this.#stopping.signal);
      return;
    }
    this.#turn += 1;
    const generations = [...new Set(healthy.map((partition) => this.#parts.generation(partition)))];
    const generation = generations[this.#turn % generations.length]!;
    const open = healthy.filter((partition) => this.#parts.generation(partition) === generation);
    // Begins with another partition each time: the first ones must not take all the room.
    const streams = open.map((_, i) => keys.topic(topic, open[(this.#turn + i) % open.length]!));
    const perStream = Math.min(batchMax, Math.max(1, Math.floor(room() / streams.length)));
    if (!this.#clientIds.has(connection)) this.#clientIds.set(connection, await connection.client("ID"));
    if (this.#isStopping || this.#isPaused) return;
    const knownClaims = this.#partitions.map((partition) => this.#parts.knownClaims(partition));
    const blockMs = generations.length > 1 ? TURN_BLOCK_MS : this.#blockMs;
    const reply = await connection.xreadgroup(
      ...(["GROUP", streamGroupOf(group, generation), member, "COUNT", perStream] as const),
      ...(["BLOCK", blockMs, "STREAMS"] as const),
      ...streams,
      ...streams.map(() => ">"),
    );
    if (!Array.isArray(reply)) return;
    for (const [stream, entries] of reply as [string, StreamEntry[]][]) {
      const partition = this.#partitionOf.get(stream);
      if (partition !== undefined) this.#parts.onEntries(partition, entries, generation, knownClaims[partition]!);
    }
  }
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
