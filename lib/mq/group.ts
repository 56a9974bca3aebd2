/** A group's registration in the partitions of a topic: trimming waits for it, and it has a place to begin. */

import { AppError } from "../errors.ts";
import { defineScript, toAppError } from "../redis/index.ts";
import registerLua from "../redis/lua/mq-group-register.lua" with { type: "text" };
import placeLua from "../redis/lua/mq-place.lua" with { type: "text" };
import type { Declaration, QueueContext, StartPoint } from "./consumer.ts";
import { ordinalOf } from "./stream.ts";

/** The largest count of an entry id: 64 bits. */
const COUNT_LIMIT = "18446744073709551615";

const registerScript = defineScript({
  name: "mqGroupRegister",
  lua: [placeLua, registerLua],
  keys: ["groups", "lease", "stream"],
  args: ["group", "mode", "start", "read"],
  decode: String,
});

/**
 * Registers a group in one partition; again has no effect. `start` counts only where the group has no place yet. After a loss
 * (FLUSHALL) callers give `first`: what came since must not be missed. Throws CONFLICT when the group has another mode.
 */
export async function registerGroup(
  context: QueueContext,
  topic: string,
  { group, mode }: Pick<Declaration<unknown>, "group" | "mode">,
  partition: number,
  start: StartPoint,
): Promise<void> {
  const { keys, redis } = context;
  const lease = keys.lease(topic, partition, group);
  // Counting is dear, and counts only where the group has no place yet.
  const hasPlace = typeof start !== "string" && (await redis.commands.hexists(lease, "checkpoint")) === 1;
  const place = await placeOf(context, topic, partition, hasPlace ? "first" : start);
  const existing = await registerScript(redis.commands, {
    groups: keys.groups(topic, partition),
    lease,
    stream: keys.topic(topic, partition),
    group,
    mode,
    ...place,
  });
  if (existing !== "") {
    throw new AppError(
      "CONFLICT",
      `group ${group} of ${topic} exists as ${existing}; it cannot be consumed as ${mode}`,
    );
  }
}

/**
 * A start point as scripts take it: `first`, `latest`, or the entry id just before the first entry to be read, with the number
 * of entries ever added up to that id. A time to come is `latest`. Cost: for a time or an id a count of what lies behind it.
 */
export async function placeOf(
  { keys, redis }: QueueContext,
  topic: string,
  partition: number,
  start: StartPoint,
): Promise<{ start: string; read: number }> {
  if (typeof start === "string") return { start, read: 0 };
  const position = positionBefore(start);
  const read = await ordinalOf(redis.commands, keys.topic(topic, partition), position);
  return read === undefined ? { start: "latest", read: 0 } : { start: position, read };
}

/** The entry id just before the first one to be read. */
export function positionBefore(start: Exclude<StartPoint, string>): string {
  if ("time" in start) return `${Math.max(0, start.time - 1)}-${COUNT_LIMIT}`;
  const [ms = "0", count = "0"] = start.id.split("-");
  return BigInt(count) === 0n ? `${Math.max(0, Number(ms) - 1)}-${COUNT_LIMIT}` : `${ms}-${BigInt(count) - 1n}`;
}

/** Registers a group in all partitions. Throws an AppError. */
export async function registerEverywhere(
  context: QueueContext,
  topic: string,
  declaration: Declaration<unknown>,
): Promise<void> {
  const partitions = Array.from({ length: context.keys.partitions }, (_, partition) => partition);
  try {
    await Promise.all(
      partitions.map((partition) => registerGroup(context, topic, declaration, partition, declaration.start)),
    );
  } catch (error) {
    throw toAppError(error);
  }
}
