/**
 * How long entries stay: until every registered group has finished them, and at least for the topic's retention; earlier,
 * when every group has finished them, if the topic is longer than its `lengthMax`. Unread entries are never trimmed: a group
 * that stands still is seen by its lag, and when the topic has grown to its `backlogMax`, producers are refused until there is
 * room again.
 */

import { AppError } from "../errors.ts";
import { defineScript, redisTimeMs, toAppError } from "../redis/index.ts";
import trimLua from "../redis/lua/mq-trim.lua" with { type: "text" };
import type { QueueContext } from "./consumer.ts";
import { DEAD_LETTER_MS } from "./dead-letter.ts";
import { parseRegistration, type Registration, streamGroupOf } from "./stream-group.ts";
import { type AnyTopic, backlogOfPartition } from "./topic.ts";

/** Entries per script call: about 2 ms of Redis. */
const TRIM_MAX = 10_000;
/** Calls per partition and run: what grows faster than this is trimmed by the runs that follow. */
const ROUNDS_MAX = 100;
/** Of a full partition so much is freed at once, that not every publication has to trim. */
const ROOM_SHARE = 0.1;
/** When a refused producer may come again: a group that reads has freed thousands of places by then. */
const FULL_RETRY_MS = 1_000;

const trimScript = defineScript({
  name: "mqTrim",
  lua: trimLua,
  keys: ["stream", "groups"],
  args: ["retentionMs", "lengthMax", "limit"],
  hasRest: true,
  decode: (reply) => {
    const [trimmed, length] = reply as [number, number];
    return { trimmed, length };
  },
});

export interface RegisteredGroup extends Registration {
  readonly group: string;
}

/** The groups registered in a partition. */
export async function groupsOf(
  { keys, redis }: QueueContext,
  topic: string,
  partition: number,
): Promise<RegisteredGroup[]> {
  const registered = await redis.commands.hgetall(keys.groups(topic, partition));
  return Object.entries(registered).map(([group, text]) => ({ group, ...parseRegistration(text) }));
}

/** Trims all partitions of a topic and its dead letters. Returns the number of entries trimmed. Throws Redis errors. */
export async function trimTopic(context: QueueContext, topic: AnyTopic): Promise<number> {
  let trimmed = 0;
  // One partition after the other: trimming is never urgent.
  for (let partition = 0; partition < context.keys.partitions; partition++) {
    trimmed += await trimPartition(context, topic, partition);
  }
  return trimmed;
}

/** One trim of a partition at a time and process: producers that find it full together wait for the same one. */
const makingRoom = new WeakMap<QueueContext, Map<string, Promise<void>>>();

/** Trims a full partition of what every group has finished. Throws Redis errors. */
export function makeRoom(context: QueueContext, topic: AnyTopic, partition: number): Promise<void> {
  const running = makingRoom.get(context) ?? new Map<string, Promise<void>>();
  makingRoom.set(context, running);
  const name = `${topic.name}/${partition}`;
  const joined = running.get(name);
  if (joined) return joined;
  const { partitions } = context.keys;
  const room = Math.max(1, Math.floor(backlogOfPartition(topic, partitions) * ROOM_SHARE));
  const lengthMax = Math.min(topic.lengthMax, (backlogOfPartition(topic, partitions) - room) * partitions);
  const trimming = trimPartition(context, { ...topic, lengthMax }, partition)
    .then(() => undefined)
    .finally(() => running.delete(name));
  running.set(name, trimming);
  return trimming;
}

/**
 * Sends something that a full topic refuses (`["full"]`), once more when room was made. Throws AppError: RATE_LIMITED when it is still
 * full, and for Redis errors.
 */
export async function withRoom<R extends readonly unknown[]>(
  context: QueueContext,
  topic: AnyTopic,
  partition: number,
  send: () => Promise<R>,
): Promise<Exclude<R, readonly ["full"]>> {
  const isTaken = (reply: R): reply is Exclude<R, readonly ["full"]> => reply[0] !== "full";
  try {
    const first = await send();
    if (isTaken(first)) return first;
    await makeRoom(context, topic, partition);
    const second = await send();
    if (isTaken(second)) return second;
  } catch (error) {
    throw toAppError(error);
  }
  context.metrics.publishRefused.inc({ topic: topic.name });
  throw topicIsFull(topic);
}

/** What a producer is told. */
export function topicIsFull({ name }: AnyTopic): AppError {
  const detail = `topic ${name} is full: its groups have not finished what it holds`;
  return new AppError("RATE_LIMITED", detail, { retryAfterMs: FULL_RETRY_MS });
}

async function trimPartition(context: QueueContext, topic: AnyTopic, partition: number): Promise<number> {
  const { keys, redis, metrics } = context;
  let total = 0;
  for (let round = 0; round < ROUNDS_MAX; round++) {
    const groups = await groupsOf(context, topic.name, partition);
    const { trimmed } = await trimScript(redis.commands, {
      stream: keys.topic(topic.name, partition),
      groups: keys.groups(topic.name, partition),
      retentionMs: topic.retentionMs,
      lengthMax: Math.ceil(topic.lengthMax / keys.partitions),
      limit: TRIM_MAX,
      restKeys: groups.map(({ group }) => keys.lease(topic.name, partition, group)),
      restArgs: groups.flatMap(({ group, mode, generation }) => [streamGroupOf(group, generation), mode]),
    });
    if (trimmed === -1) continue;
    total += trimmed;
    if (trimmed > 0) continue;
    const oldest = `${(await redisTimeMs(redis.commands)) - DEAD_LETTER_MS}-0`;
    for (const { group } of groups) {
      const evicted = await redis.commands.xtrim(keys.deadLetters(topic.name, partition, group), "MINID", "~", oldest);
      if (evicted > 0) metrics.deadLettersEvicted.inc({ topic: topic.name, group }, evicted);
    }
    break;
  }
  return total;
}
