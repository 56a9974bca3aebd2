/**
 * The queue in one call, for a service that is not a role of Skein: opens its own connections to the Redis of an installation and
 * closes them again. It finds out how many partitions the installation has; on an empty Redis it makes one.
 *
 *   await using queue = await connectQueue({ url: "redis://127.0.0.1:6379", member: "shop-1" });
 */

import { type Clock, systemClock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { ID_PATTERN } from "../id.ts";
import { createMetrics, type Log, type Metrics, silentLog } from "../observability/index.ts";
import { claimInstallation, createKeys, openRedis, type RedisClient } from "../redis/index.ts";
import { openQueue, type Queue } from "./index.ts";

/** design.md §4. */
const PARTITIONS = 16;

export interface ConnectOptions {
  /** `redis://`, `rediss://`, `redis+sentinel://` or `redis+cluster://`, as SKEIN_REDIS_URL. */
  readonly url: string;
  /** 1..64 of [A-Za-z0-9_.-]: this process among the members of its groups; stable over restarts, unique among live ones. */
  readonly member: string;
  /** Of the installation; default `skein`. */
  readonly prefix?: string;
  /** Of an installation that is made by this call; default 16. One that exists keeps its own. */
  readonly partitions?: number;
  /** How far ahead a message may be delayed; default 40 days, at most 365. */
  readonly delayMsMax?: number;
  readonly clock?: Clock;
  /** Default: says nothing. */
  readonly log?: Log;
  readonly metrics?: Metrics;
}

export interface ConnectedQueue extends Queue, AsyncDisposable {
  /** For reading keys of your own (`own`). What is written beside messages is written by publishWith and commit. */
  readonly redis: RedisClient;
  /** Closes the connections. Stop the consumers first: what they hold would wait for the end of its lease. */
  close(): Promise<void>;
}

/** Throws AppError INVALID for an option that does not fit, OVERLOADED when Redis does not answer. */
export async function connectQueue(options: ConnectOptions): Promise<ConnectedQueue> {
  const { url, member, prefix = "skein", clock = systemClock, log = silentLog } = options;
  if (!ID_PATTERN.test(member)) throw new AppError("INVALID", "member must be 1..64 of [A-Za-z0-9_.-]");
  const redis = await openRedis(url, member, log);
  try {
    const installation = createKeys(prefix, 1).installation();
    const stored = await redis.commands.hget(installation, "partitions");
    const keys = createKeys(prefix, stored === null ? (options.partitions ?? PARTITIONS) : Number(stored));
    await claimInstallation(redis, keys, clock.now());
    const metrics = options.metrics ?? createMetrics();
    const delay = options.delayMsMax === undefined ? {} : { delayMsMax: options.delayMsMax };
    const queue = openQueue({ redis, keys, clock, log, member, metrics, ...delay });
    return { ...queue, redis: redis.commands, close: redis.close, [Symbol.asyncDispose]: redis.close };
  } catch (error) {
    await redis.close();
    throw error;
  }
}
