/**
 * How a message is kept until it is due: the check of what was asked for, and the script that stores record and message and tells the
 * timers. The publisher (producer.ts) batches and answers.
 */

import { AppError, type Issue } from "../errors.ts";
import { defineScript } from "../redis/index.ts";
import appendLua from "../redis/lua/mq-append.lua" with { type: "text" };
import dedupeLua from "../redis/lua/mq-dedupe.lua" with { type: "text" };
import delayLua from "../redis/lua/mq-delay.lua" with { type: "text" };
import delayPublishLua from "../redis/lua/mq-delay-publish.lua" with { type: "text" };
import { formatCondition, issuesOfCondition } from "./condition.ts";
import type { QueueContext } from "./consumer.ts";
import { shelfKeys } from "./delayed-record.ts";
import type { PublishInput } from "./producer.ts";
import { publishKeys } from "./stream.ts";
import { type AnyTopic, backlogOfPartition } from "./topic.ts";

const DAY_MS = 24 * 3_600_000;
/** design.md §6: farther ahead is a calendar, not a delay. */
export const DELAY_MS_DEFAULT = 40 * DAY_MS;
/** BullMQ keeps a due time × 4096 in a double: exact until 2039. */
export const DELAY_MS_MAX = 365 * DAY_MS;
/**
 * Delayed messages that may wait in a partition: 1.6 million over 16, with their timers some 1.5 KB each besides the data. Firing is
 * not held up by a full topic, so this bounds what may come at once, too.
 */
export const PENDING_MAX = 100_000;
/** Some are due every moment. */
const FULL_RETRY_MS = 5_000;

/** Per message as mq-delay-publish.lua replies. */
export type DelayReply =
  | ["appended", entry: string]
  | ["waits", dueMs: string]
  | ["duplicate", id: string, entry: string]
  | ["full"];

const delayPublishScript = defineScript({
  name: "mqDelayPublish",
  lua: [appendLua, dedupeLua, delayLua, delayPublishLua],
  keys: ["stream", "even", "odd", "groups", "records", "due", "ended", "relay"],
  args: ["topic", "windowMs", "backlogMax", "pendingMax"],
  hasRest: true,
  decode: (reply) => reply as DelayReply[],
});

/** When a message is due, and its condition as its record holds it. Throws INVALID with the field and its limit. */
export function checkDelay(
  { keys, clock }: QueueContext,
  topic: string,
  partition: number,
  { id, deliverAt = 0, expireAt, condition }: PublishInput<unknown>,
  delayMsMax: number,
): [dueMs: number, condition: string] {
  const issues: Issue[] = condition ? issuesOfCondition(keys, partition, condition) : [];
  issues.push(...issuesOfDueTime(deliverAt, clock.now(), delayMsMax));
  if (id !== undefined) {
    issues.push({ path: "id", message: "cannot be given: a delayed message is found by the id that it gets" });
  }
  if (expireAt !== undefined && expireAt < deliverAt) {
    issues.push({ path: "expireAt", message: "must not lie before deliverAt" });
  }
  if (issues.length > 0) {
    const lines = issues.map((issue) => `${issue.path} ${issue.message}`).join("; ");
    throw new AppError("INVALID", `topic ${topic}: ${lines}`, { issues });
  }
  return [deliverAt, formatCondition(condition)];
}

/** What is wrong with a due time; nothing when it is well. The past is well: it is now. */
export function issuesOfDueTime(at: number, nowMs: number, delayMsMax: number, path = "deliverAt"): Issue[] {
  if (!Number.isSafeInteger(at) || at < 0) return [{ path, message: "must be a time in Unix ms" }];
  if (at <= nowMs + delayMsMax) return [];
  return [{ path, message: `lies more than ${Math.floor(delayMsMax / DAY_MS)} days ahead` }];
}

/** Runs the script for the arguments of some messages of one partition. Throws Redis errors. */
export function keepDelayed(
  { keys, redis }: QueueContext,
  topic: AnyTopic,
  partition: number,
  args: readonly (string | number)[],
): Promise<DelayReply[]> {
  return delayPublishScript(redis.commands, {
    ...publishKeys(keys, topic.name, partition),
    ...shelfKeys(keys, partition),
    topic: topic.name,
    windowMs: topic.dedupMs,
    backlogMax: backlogOfPartition(topic, keys.partitions),
    pendingMax: PENDING_MAX,
    restArgs: args,
  });
}

/** What a producer is told for whom there is no room. */
export function tooManyWait({ name }: AnyTopic): AppError {
  const detail = `topic ${name} takes no more delayed messages: ${PENDING_MAX} wait in the partition, or it is full`;
  return new AppError("RATE_LIMITED", detail, { retryAfterMs: FULL_RETRY_MS });
}
