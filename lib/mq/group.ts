/** A group's registration in the partitions of a topic: trimming waits for it, and it has a place to begin. */

import { AppError } from "../errors.ts";
import { defineScript, toAppError } from "../redis/index.ts";
import registerLua from "../redis/lua/mq-group-register.lua" with { type: "text" };
import type { Declaration, QueueContext } from "./consumer.ts";

const registerScript = defineScript({
  name: "mqGroupRegister",
  lua: registerLua,
  keys: ["groups", "lease", "stream"],
  args: ["group", "mode", "start"],
  decode: String,
});

/**
 * Registers a group in one partition; again has no effect. `start` counts only where the group has no place yet. After a loss
 * (FLUSHALL) callers give `first`: what came since must not be missed. Throws CONFLICT when the group has another mode.
 */
export async function registerGroup(
  context: QueueContext,
  topic: string,
  { group, mode }: Declaration<unknown>,
  partition: number,
  start: "first" | "latest",
): Promise<void> {
  const { keys, redis } = context;
  const existing = await registerScript(redis.commands, {
    groups: keys.groups(topic, partition),
    lease: keys.lease(topic, partition, group),
    stream: keys.topic(topic, partition),
    group,
    mode,
    start,
  });
  if (existing !== "") {
    throw new AppError(
      "CONFLICT",
      `group ${group} of ${topic} exists as ${existing}; it cannot be consumed as ${mode}`,
    );
  }
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
