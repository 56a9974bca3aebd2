/**
 * What an operator may order of a group: pause and resume it, set it to another place, drop it. Members hear of the first two by
 * themselves, within a second; no process needs to be reached.
 *
 *   pause   members finish what is in their hands and take nothing more; what waited goes back at no cost
 *   seek    whoever holds anything of the group is fenced; it goes on at the new place, in every partition by itself
 *   drop    all that is kept of the group is gone, in every partition; its members must have stopped
 *
 * Each can be repeated until it succeeds. None is atomic over the partitions: a call that fails half-way has done some of them.
 */

import { AppError } from "../errors.ts";
import { newId } from "../id.ts";
import { defineScript, toAppError } from "../redis/index.ts";
import dropLua from "../redis/lua/mq-group-drop.lua" with { type: "text" };
import placeLua from "../redis/lua/mq-place.lua" with { type: "text" };
import seekConcurrentLua from "../redis/lua/mq-seek-concurrent.lua" with { type: "text" };
import seekOrderedLua from "../redis/lua/mq-seek-ordered.lua" with { type: "text" };
import sideLua from "../redis/lua/mq-side.lua" with { type: "text" };
import { isStartPoint, type QueueContext, type StartPoint } from "./consumer.ts";
import { placeOf, registerGroup } from "./group.ts";
import { PULL_MEMBER } from "./pull-outlet.ts";
import { sideKeys } from "./side.ts";
import { type Registration, registrationsOf } from "./stream-group.ts";
import type { AnyTopic } from "./topic.ts";

/** Messages aside that one call of a seek looks at: about 1 ms of Redis. */
const SEEK_CHUNK = 250;
/** A seek that dies half-way holds a partition no longer than this. Its calls are milliseconds apart. */
const SEEK_LEASE_MS = 5_000;
/** An operator's own words, shown beside the group. */
const REASON_LENGTH_MAX = 200;

export interface Control {
  /** Again keeps the time since when it is paused. Throws NOT_FOUND for a group that never ran. */
  pause(topic: AnyTopic, group: string, reason?: string): Promise<void>;
  /** Again has no effect. Throws NOT_FOUND. */
  resume(topic: AnyTopic, group: string): Promise<void>;
  /**
   * Sets the group to a place, in every partition: it is given again what lies behind, and not what lies before. Attempts are
   * forgotten, keys that stand aside are tried anew; dead letters stay. Throws NOT_FOUND, INVALID.
   */
  seek(topic: AnyTopic, group: string, to: StartPoint): Promise<void>;
  /** Forgets the group and its dead letters. Throws CONFLICT while members are alive, before anything is done. */
  dropGroup(topic: AnyTopic, group: string): Promise<void>;
}

/** '' is done, else why not: the mode of the group, or `unregistered`. */
type SeekReply = "" | "ordered" | "concurrent" | "unregistered";

const seekConcurrentScript = defineScript({
  name: "mqSeekConcurrent",
  lua: [placeLua, seekConcurrentLua],
  keys: ["stream", "groups", "lease", "retries", "attempts"],
  args: ["group", "start", "read", "generation"],
  decode: (reply) => reply as SeekReply,
});

const seekOrderedScript = defineScript({
  name: "mqSeekOrdered",
  lua: [placeLua, sideLua, seekOrderedLua],
  keys: ["stream", "groups", "lease", "attempts", "aside", "asideDue", "side", "sideOrder"],
  args: ["group", "start", "read", "seek", "leaseMs", "cursor", "limit"],
  decode: (reply) => {
    const [refusal, cursor = ""] = reply as [SeekReply, string?];
    return { refusal, cursor };
  },
});

const dropScript = defineScript({
  name: "mqGroupDrop",
  lua: dropLua,
  keys: [
    ...(["stream", "groups", "lease", "retries", "attempts", "dead"] as const),
    ...(["aside", "asideDue", "side", "sideOrder"] as const),
  ],
  args: ["group"],
  decode: Number,
});

export function createControl(context: QueueContext): Control {
  const { redis, keys, log } = context;
  /** Redis errors become the caller's. */
  const order = async (topic: AnyTopic, group: string, act: string, done: () => Promise<unknown>) => {
    try {
      await done();
    } catch (error) {
      throw toAppError(error);
    }
    log.info({ topic: topic.name, group }, `group ${act}`);
  };
  return {
    pause: (topic, group, reason = "") =>
      order(topic, group, "paused", async () => {
        if (reason.length > REASON_LENGTH_MAX) {
          throw new AppError("INVALID", `reason has ${reason.length} characters; the limit is ${REASON_LENGTH_MAX}`);
        }
        await requireGroup(context, topic, group);
        const control = keys.groupControl(topic.name, group);
        await redis.commands.hsetnx(control, "paused", String(context.clock.now()));
        await redis.commands.hset(control, "reason", reason);
      }),
    resume: (topic, group) =>
      order(topic, group, "resumed", async () => {
        await requireGroup(context, topic, group);
        await redis.commands.hdel(keys.groupControl(topic.name, group), "paused", "reason");
      }),
    seek: (topic, group, to) =>
      order(topic, group, "set to another place", async () => {
        if (!isStartPoint(to)) throw new AppError("INVALID", "to must be first, latest, a time in ms or an entry id");
        await seek(context, topic.name, group, to, await requireGroup(context, topic, group));
        // Members look at it, and whoever holds a lease finds out that it is lost.
        await redis.commands.hincrby(keys.groupControl(topic.name, group), "seeks", 1);
      }),
    dropGroup: (topic, group) =>
      order(topic, group, "dropped", async () => {
        await requireStopped(context, topic.name, group);
        await Promise.all(
          partitionsOf(context).map((partition) =>
            dropScript(redis.commands, keysOf(context, topic.name, partition, group)),
          ),
        );
        await redis.commands.del(keys.groupMembers(topic.name, group), keys.groupControl(topic.name, group));
      }),
  };
}

async function seek(
  context: QueueContext,
  topic: string,
  group: string,
  to: StartPoint,
  registrations: readonly (Registration | undefined)[],
): Promise<void> {
  const mode = registrations.find((registration) => registration !== undefined)!.mode;
  const generation = Math.max(...registrations.map((registration) => registration?.generation ?? 0)) + 1;
  const name = newId(context.clock.now());
  await Promise.all(
    partitionsOf(context).map(async (partition) => {
      const place = await placeOf(context, topic, partition, to);
      const seekNow = mode === "ordered" ? seekOrdered : seekConcurrent;
      const refusal = await seekNow(context, keysOf(context, topic, partition, group), { ...place, generation, name });
      if (refusal === "unregistered") await registerGroup(context, topic, { group, mode }, partition, to);
      else if (refusal !== "") throw new AppError("CONFLICT", `group ${group} of ${topic} is ${refusal} by now`);
    }),
  );
}

type GroupKeys = ReturnType<typeof keysOf>;

interface Target {
  readonly start: string;
  readonly read: number;
  readonly generation: number;
  /** Of the seek: a repeated call is known by it. */
  readonly name: string;
}

async function seekConcurrent(
  { redis }: QueueContext,
  keys: GroupKeys,
  { start, read, generation }: Target,
): Promise<SeekReply> {
  return seekConcurrentScript(redis.commands, { ...keys, start, read, generation });
}

async function seekOrdered(
  { redis }: QueueContext,
  keys: GroupKeys,
  { start, read, name }: Target,
): Promise<SeekReply> {
  for (let cursor = ""; ; ) {
    const input = { start, read, seek: name, leaseMs: SEEK_LEASE_MS, cursor, limit: SEEK_CHUNK };
    const reply = await seekOrderedScript(redis.commands, { ...keys, ...input });
    // The side queue is bounded, and each call goes further in it.
    if (reply.refusal !== "" || reply.cursor === "") return reply.refusal;
    cursor = reply.cursor;
  }
}

function partitionsOf({ keys }: QueueContext): readonly number[] {
  return Array.from({ length: keys.partitions }, (_, partition) => partition);
}

/** All that is kept of a group in a partition, and its name, as the scripts take them. */
function keysOf({ keys }: QueueContext, topic: string, partition: number, group: string) {
  return {
    stream: keys.topic(topic, partition),
    groups: keys.groups(topic, partition),
    lease: keys.lease(topic, partition, group),
    retries: keys.retries(topic, partition, group),
    attempts: keys.attempts(topic, partition, group),
    dead: keys.deadLetters(topic, partition, group),
    ...sideKeys(keys, topic, partition, group),
    group,
  };
}

async function requireGroup(
  context: QueueContext,
  topic: AnyTopic,
  group: string,
): Promise<(Registration | undefined)[]> {
  const registrations = await registrationsOf(context, topic.name, group);
  if (registrations.some((registration) => registration !== undefined)) return registrations;
  throw new AppError("NOT_FOUND", `topic ${topic.name} has no group ${group}`);
}

async function requireStopped({ redis, keys }: QueueContext, topic: string, group: string): Promise<void> {
  const [beats, [seconds]] = await Promise.all([
    redis.commands.hgetall(keys.groupMembers(topic, group)),
    redis.commands.time(),
  ]);
  // #pull is there while a service asks, and makes nothing anew that its gateway does not know any more.
  const alive = Object.entries(beats).filter(
    ([member, until]) => member !== PULL_MEMBER && Number(until) > Number(seconds) * 1_000,
  );
  if (alive.length === 0) return;
  const names = alive.map(([member]) => member).join(", ");
  throw new AppError("CONFLICT", `members of ${group} are alive and would make it anew: stop ${names} first`);
}
