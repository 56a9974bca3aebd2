/**
 * Broadcasts: one message of one user to many, to each of them in the direct conversation of the two. Here they are recorded, looked at,
 * paused, resumed and cancelled; broadcast-runner.ts walks the audience, and logic sends.
 *
 *   create ─► record ─► runner, at the broadcast's rate ─► im.commands `send` per recipient ─► logic ─► what became of it, counted
 *             (errand)          (marked, so once each)       key: the recipient                  in the commit that finishes the command
 *
 * Both the marks and the counts lie in the recipients' partitions: there they change with the messages that they are about.
 */

import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { newId } from "../id.ts";
import { type ErrandPlace, type ErrandState, noteErrand } from "../mq/index.ts";
import { defineScript, type Keys, type RedisClient, toAppError } from "../redis/index.ts";
import createLua from "../redis/lua/im-broadcast-create.lua" with { type: "text" };
import { digest } from "./conversations.ts";
import type { Body } from "./protocol.ts";

/** Sends what no user has asked for in his own name; it is no recipient. No user should have the name: he would read the answers. */
export const BROADCASTER = "skein";
/** A list of users comes in one request. */
export const BROADCAST_USERS_MAX = 10_000;
/** Recipients per second, at most: it is less while the chat has much to do (broadcast-runner.ts). */
export const BROADCAST_RATE = 500;
export const BROADCAST_RATE_MAX = 5_000;
/** A broadcast's id is part of a clientId of 64 characters. */
export const BROADCAST_ID_LENGTH_MAX = 50;
/** From its creation until it must have ended, and from its end until it is forgotten. */
export const BROADCAST_LIFE_MS = 30 * 24 * 3_600_000;
/** Open at a time: each has its own rate, and what the chat can bear is not ten times more for ten of them. */
const OPEN_MAX = 20;
/** In the list of all; those that it has no room for are found by their id. */
const LISTED_MAX = 10_000;
/** Of one look at the list. */
const SHOWN_MAX = 100;
/** Users per command while a list is stored: 0.5 ms of Redis. */
const CHUNK_MAX = 500;
/** A list whose broadcast was never recorded. */
const ORPHAN_MS = 3_600_000;

export type Audience =
  | { readonly users: readonly string[] }
  | { readonly all: true }
  | { readonly conversation: string };

export interface BroadcastInput {
  /** Default: a new one. */
  readonly id?: string | undefined;
  readonly by: string;
  readonly audience: Audience;
  readonly type: string;
  readonly body: Body;
  readonly perSecond: number;
}

/** `users`: how many. */
export type ShownAudience = { readonly users: number } | { readonly all: true } | { readonly conversation: string };

export interface BroadcastSummary {
  readonly id: string;
  readonly state: ErrandState;
  readonly by: string;
  readonly audience: ShownAudience;
  readonly type: string;
  readonly body: Body;
  readonly perSecond: number;
  readonly createdAt: number;
  readonly startedAt: number | undefined;
  readonly endedAt: number | undefined;
}

export interface Broadcast extends BroadcastSummary {
  /** Recipients that logic was asked to send to so far; sent and refused are among them. */
  readonly total: number;
  readonly sent: number;
  /** Error code -> how many. */
  readonly refused: Readonly<Record<string, number>>;
}

export interface Broadcasts {
  /**
   * Once per id; `isNew` false when it is there with the same content. Throws AppError: CONFLICT with other content, NOT_FOUND for a
   * conversation that does not exist, RATE_LIMITED when 20 are open; Redis' errors: again under the same id is safe.
   */
  create(input: BroadcastInput): Promise<{ broadcast: Broadcast; isNew: boolean }>;
  /** With its progress; NOT_FOUND 30 days after its end. Costs a command per partition. */
  get(id: string): Promise<Broadcast>;
  /** The newest first, at most 100. */
  list(): Promise<BroadcastSummary[]>;
  /** Idempotent. Throws CONFLICT with the state when it has ended otherwise, NOT_FOUND. What is published already is still sent. */
  order(id: string, order: BroadcastOrder): Promise<Broadcast>;
}

export type BroadcastOrder = "pause" | "resume" | "cancel";

const ORDERED = { pause: "paused", resume: "running", cancel: "cancelled" } as const;

const createRecord = defineScript({
  name: "imBroadcastCreate",
  lua: createLua,
  keys: ["open", "list", "record", "audience"],
  args: ["id", "digest", "openMax", "listMax", "lifeMs"],
  hasRest: true,
  decode: (reply) => reply as "created" | "same" | "other" | "full",
});

export function broadcastPlace(keys: Keys, id: string): ErrandPlace {
  return { open: keys.openBroadcasts(), record: keys.broadcast(id), id };
}

/** The name of the own key, of each partition, that counts what became of a broadcast's recipients. */
export function broadcastCounts(id: string): string {
  return `broadcast.${id}`;
}

export function createBroadcasts(redis: RedisClient, keys: Keys, clock: Clock): Broadcasts {
  async function storeList(users: readonly string[], list: string): Promise<void> {
    const key = keys.broadcastList(list);
    for (let from = 0; from < users.length; from += CHUNK_MAX) {
      await redis.zadd(key, ...users.slice(from, from + CHUNK_MAX).flatMap((user) => ["0", user]));
      await redis.pexpire(key, ORPHAN_MS);
    }
  }

  async function create(input: BroadcastInput) {
    const { id = newId(clock.now()), by, audience, type, perSecond } = input;
    const body = JSON.stringify(input.body);
    if ("conversation" in audience && (await redis.exists(keys.conversation(audience.conversation))) === 0) {
      throw new AppError("NOT_FOUND", `There is no conversation ${audience.conversation}`);
    }
    const users = "users" in audience ? [...new Set(audience.users)].sort() : [];
    const shown: ShownAudience = "users" in audience ? { users: users.length } : audience;
    const content = await digest([by, type, body, String(perSecond), JSON.stringify(shown), ...users]);
    const list = newId(clock.now());
    await storeList(users, list);
    const fields = {
      ...{ by, type, body, audience: JSON.stringify(shown), list, per_second: perSecond },
      gathered: "conversation" in audience ? 0 : 1,
    };
    const result = await createRecord(redis, {
      ...broadcastPlace(keys, id),
      list: keys.broadcasts(),
      audience: keys.broadcastList(list),
      ...{ digest: content, openMax: OPEN_MAX, listMax: LISTED_MAX, lifeMs: BROADCAST_LIFE_MS },
      restArgs: Object.entries(fields).flat(),
    });
    if (result === "other") throw new AppError("CONFLICT", "id is taken by a broadcast with other content");
    if (result === "full") {
      const message = `${OPEN_MAX} broadcasts are open already; wait for one or cancel it`;
      throw new AppError("RATE_LIMITED", message, { retryAfterMs: 10_000 });
    }
    return { broadcast: await get(id), isNew: result === "created" };
  }

  async function read(id: string): Promise<BroadcastSummary | undefined> {
    const fields = await redis.hgetall(keys.broadcast(id));
    return fields.state === undefined ? undefined : toSummary(id, fields);
  }

  async function get(id: string): Promise<Broadcast> {
    const [summary, counts] = await Promise.all([read(id), countsOf(redis, keys, id)]);
    if (!summary) throw new AppError("NOT_FOUND");
    const { total = 0, sent = 0, ...refused } = counts;
    return { ...summary, total, sent, refused };
  }

  async function order(id: string, ordered: BroadcastOrder): Promise<Broadcast> {
    const state = ORDERED[ordered];
    const from = ["running", "paused"] as const;
    const found = await noteErrand(redis, broadcastPlace(keys, id), {
      ...{ runner: "", from, state, keepMs: BROADCAST_LIFE_MS },
    });
    if (found === "not_found") throw new AppError("NOT_FOUND");
    if (found !== "ok" && found !== state) {
      throw new AppError("CONFLICT", `The broadcast is ${found}`, { state: found });
    }
    if (found === "ok" && state === "cancelled") await forgetAudience(redis, keys, id);
    return get(id);
  }

  return {
    create: (input) => settled(create(input)),
    get: (id) => settled(get(id)),
    list: () =>
      settled(
        (async () => {
          const ids = await redis.zrevrange(keys.broadcasts(), 0, SHOWN_MAX - 1);
          return (await Promise.all(ids.map(read))).filter((summary) => summary !== undefined);
        })(),
      ),
    order: (id, ordered) => settled(order(id, ordered)),
  };
}

/** What became of the recipients so far, over all partitions: `total`, `sent`, and error codes. */
export async function countsOf(redis: RedisClient, keys: Keys, id: string): Promise<Record<string, number>> {
  const partitions = Array.from({ length: keys.partitions }, (_, partition) => partition);
  const found = await Promise.all(partitions.map((p) => redis.hgetall(keys.own(p, broadcastCounts(id)))));
  const counts: Record<string, number> = {};
  for (const [name, count] of found.flatMap((part) => Object.entries(part))) {
    counts[name] = (counts[name] ?? 0) + Number(count);
  }
  return counts;
}

/** A runner that was paused since before the end may still publish what it had in hand: the marks of that must be there. */
const MARKS_AFTER_END_MS = 24 * 3_600_000;

/** Of a broadcast that ends: its list, and after a day the marks. Again does no more. What dies before it goes by itself after a while. */
export async function forgetAudience(redis: RedisClient, keys: Keys, id: string): Promise<void> {
  const list = await redis.hget(keys.broadcast(id), "list");
  const marks = Array.from({ length: keys.partitions }, (_, partition) => keys.broadcastMarks(partition, id));
  await Promise.all([
    redis.del(keys.broadcastList(list ?? "")),
    ...marks.map((key) => redis.pexpire(key, MARKS_AFTER_END_MS)),
  ]);
}

function toSummary(id: string, of: Readonly<Record<string, string>>): BroadcastSummary {
  return {
    id,
    state: of.state as ErrandState,
    by: of.by!,
    audience: JSON.parse(of.audience!) as ShownAudience,
    type: of.type!,
    body: JSON.parse(of.body!) as Body,
    perSecond: Number(of.per_second),
    createdAt: Number(of.created),
    startedAt: of.started ? Number(of.started) : undefined,
    endedAt: of.ended ? Number(of.ended) : undefined,
  };
}

async function settled<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw toAppError(error);
  }
}
