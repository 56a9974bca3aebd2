/** Delayed messages in tests: Redis' own clock, and the firing script without BullMQ. */

import type { Clock } from "../../lib/clock.ts";
import { systemClock } from "../../lib/clock.ts";
import type { QueueContext } from "../../lib/mq/consumer.ts";
import { Firing } from "../../lib/mq/firing.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { redisTimeMs } from "../../lib/redis/index.ts";
import type { TestQueue } from "./queue.ts";
import type { TestStore } from "./redis.ts";

/** Redis TIME in ms. */
export const redisNow = ({ redis }: Pick<TestStore, "redis">): Promise<number> => redisTimeMs(redis.commands);

export function contextOf({ store }: TestQueue, clock: Clock = systemClock): QueueContext {
  const { redis, keys, metrics } = store;
  return { redis, keys, metrics, clock, log: silentLog, member: "m" };
}

export function firingOf(t: TestQueue): Firing {
  return new Firing(contextOf(t));
}

/** Data of a topic's entries in all partitions, with the ms of their append. */
export async function appended(t: TestQueue, topic = t.topic.name): Promise<{ n: number; at: number }[]> {
  const { redis, keys, partitions } = t.store;
  const entries = await Promise.all(
    Array.from({ length: partitions }, (_, partition) => redis.commands.xrange(keys.topic(topic, partition), "-", "+")),
  );
  return entries
    .flat()
    .map(([id, fields]) => ({ n: (JSON.parse(fields[1]!) as { n: number }).n, at: Number(id.split("-")[0]) }));
}
