/**
 * Delayed messages as their publisher sees them: look at one, list those that wait, and cancel, move or send one now, with an answer
 * that is true. They begin with publish (`deliverAt`); the timers fire them.
 */

import { AppError, type Issue } from "../errors.ts";
import { partitionOfPlacedId } from "../id.ts";
import { defineScript, toAppError } from "../redis/index.ts";
import appendLua from "../redis/lua/mq-append.lua" with { type: "text" };
import delayLua from "../redis/lua/mq-delay.lua" with { type: "text" };
import delayCancelLua from "../redis/lua/mq-delay-cancel.lua" with { type: "text" };
import delayListLua from "../redis/lua/mq-delay-list.lua" with { type: "text" };
import delayMoveLua from "../redis/lua/mq-delay-move.lua" with { type: "text" };
import { type Condition, parseCondition } from "./condition.ts";
import type { QueueContext } from "./consumer.ts";
import { type DelayedRecord, parseDelayed, shelfKeys } from "./delayed-record.ts";
import { issuesOfDueTime } from "./delaying.ts";
import type { Firing } from "./firing.ts";

const PAGE_DEFAULT = 100;
const PAGE_MAX = 500;
/** Records looked at per partition and page: some 2 ms of Redis. */
const SCAN_MAX = 1_000;
const CURSOR = /^(\d{1,16})-(\S{1,64})$/;

export interface DelayedMessage extends Omit<DelayedRecord, "condition"> {
  readonly condition?: Condition;
}

/** `ok`: done, or done before. `not_found`: also cancelled and dropped ones, and those that ended more than 24 h ago. */
export type DelayedResult = "ok" | "already_fired" | "not_found";

export interface DelayedPage {
  /** PENDING ones, the next due first. */
  readonly messages: readonly DelayedMessage[];
  /** Where the next page begins; undefined: this was the last. A page may be short and yet have a next one. */
  readonly next?: string;
}

export interface DelayedQuery {
  readonly topic?: string;
  /** 1..500, default 100. */
  readonly limit?: number;
  readonly cursor?: string;
}

export interface Delayed {
  /** With its data while it waits; undefined when there is none or it ended more than 24 h ago. */
  get(id: string): Promise<(DelayedMessage & { readonly raw?: string }) | undefined>;
  /** By due time, over all partitions; one script per partition. Throws INVALID for a limit or cursor out of range. */
  list(query?: DelayedQuery): Promise<DelayedPage>;
  /** It will never be delivered. */
  cancel(id: string): Promise<DelayedResult>;
  /** Another due time; the past is now. Throws INVALID when it lies too far ahead. */
  move(id: string, at: number): Promise<DelayedResult>;
  /** Appends it now, whether its condition holds or not; one whose expireAt has passed is dropped: `not_found`. */
  sendNow(id: string): Promise<DelayedResult>;
}

const cancelScript = defineScript({
  name: "mqDelayCancel",
  lua: [appendLua, delayLua, delayCancelLua],
  keys: ["records", "due", "ended"],
  args: ["id"],
  decode: (reply) => reply as DelayedResult,
});

const moveScript = defineScript({
  name: "mqDelayMove",
  lua: [appendLua, delayLua, delayMoveLua],
  keys: ["records", "due", "relay"],
  args: ["id", "atMs"],
  decode: (reply) => (reply as [DelayedResult])[0],
});

const listScript = defineScript({
  name: "mqDelayList",
  lua: delayListLua,
  keys: ["records", "due"],
  args: ["afterDue", "afterId", "topic", "scanMax", "wanted"],
  decode: (reply) => reply as [isEnd: 0 | 1, lastDue: string, lastId: string, ...idsAndTexts: string[]],
});

/** In the order of all that wait. */
interface Place {
  readonly due: number;
  readonly id: string;
}

export function createDelayed(context: QueueContext, firing: Firing, delayMsMax: number): Delayed {
  const { keys, redis, clock, metrics } = context;
  const partitionOf = (id: string) => partitionOfPlacedId(id, keys.partitions);

  async function get(id: string) {
    const partition = partitionOf(id);
    if (partition === undefined) return undefined;
    const [text, stored] = await run(redis.commands.hmget(keys.delayed(partition), id, `${id}:`));
    const record = text ? parseDelayed(id, text) : undefined;
    if (!record) return undefined;
    return { ...toMessage(record), ...(stored ? { raw: stored.slice(stored.indexOf("\n") + 1) } : {}) };
  }

  async function list({ topic = "", limit = PAGE_DEFAULT, cursor }: DelayedQuery = {}): Promise<DelayedPage> {
    if (!Number.isInteger(limit) || limit < 1 || limit > PAGE_MAX) {
      throw invalid([{ path: "limit", message: `must be a whole number from 1 to ${PAGE_MAX}` }]);
    }
    const after = readCursor(cursor);
    const scans = await run(
      Promise.all(
        Array.from({ length: keys.partitions }, (_, partition) =>
          listScript(redis.commands, {
            ...{ records: keys.delayed(partition), due: keys.delayedDue(partition), topic },
            ...{ afterDue: after.due, afterId: after.id, scanMax: SCAN_MAX, wanted: limit },
          }),
        ),
      ),
    );
    const { found, horizon } = gather(scans);
    const messages = found.slice(0, limit);
    const last = messages.at(-1);
    const next = found.length > limit ? { due: last!.deliverAt, id: last!.id } : horizon;
    return { messages: messages.map(toMessage), ...(next ? { next: `${next.due}-${next.id}` } : {}) };
  }

  async function cancel(id: string): Promise<DelayedResult> {
    const partition = partitionOf(id);
    if (partition === undefined) return "not_found";
    const { records, due, ended } = shelfKeys(keys, partition);
    const result = await run(cancelScript(redis.commands, { records, due, ended, id }));
    if (result === "ok") metrics.delayed.inc({ outcome: "cancelled" });
    return result;
  }

  async function move(id: string, at: number): Promise<DelayedResult> {
    const issues = issuesOfDueTime(at, clock.now(), delayMsMax, "at");
    if (issues.length > 0) throw invalid(issues);
    const partition = partitionOf(id);
    if (partition === undefined) return "not_found";
    const { records, due, relay } = shelfKeys(keys, partition);
    const result = await run(moveScript(redis.commands, { records, due, relay, id, atMs: at }));
    if (result === "ok") metrics.delayed.inc({ outcome: "moved" });
    return result;
  }

  async function sendNow(id: string): Promise<DelayedResult> {
    const outcome = await firing.force(id);
    if (outcome.kind === "fired") return "ok";
    if (outcome.kind === "failed") throw new AppError("INTERNAL", `delayed message ${id}: ${outcome.error}`);
    return outcome.kind === "ended" && outcome.state === "FIRED" ? "already_fired" : "not_found";
  }

  return { get, list, cancel, move, sendNow };
}

/**
 * The partitions' scans as one order. Where a partition was not looked through to its end, nothing behind that place can be told yet:
 * the nearest such place is the horizon.
 */
function gather(scans: readonly (readonly [0 | 1, string, string, ...string[]])[]) {
  let horizon: Place | undefined;
  for (const [isEnd, due, id] of scans) {
    const place = { due: Number(due), id };
    if (isEnd === 0 && (!horizon || isBefore(place, horizon))) horizon = place;
  }
  const found: DelayedRecord[] = [];
  for (const [, , , ...pairs] of scans) {
    for (let i = 0; i < pairs.length; i += 2) {
      const record = parseDelayed(pairs[i]!, pairs[i + 1]!);
      if (record && !(horizon && isBefore(horizon, placeOf(record)))) found.push(record);
    }
  }
  found.sort((a, b) => (isBefore(placeOf(a), placeOf(b)) ? -1 : 1));
  return { found, horizon };
}

function placeOf({ deliverAt, id }: DelayedRecord): Place {
  return { due: deliverAt, id };
}

function isBefore(a: Place, b: Place): boolean {
  return a.due < b.due || (a.due === b.due && a.id < b.id);
}

function toMessage({ condition, ...record }: DelayedRecord): DelayedMessage {
  const asked = parseCondition(condition);
  return asked ? { ...record, condition: asked } : record;
}

function readCursor(cursor: string | undefined): Place {
  if (cursor === undefined) return { due: 0, id: "" };
  const match = CURSOR.exec(cursor);
  if (!match) throw invalid([{ path: "cursor", message: "must be the `next` of another page" }]);
  return { due: Number(match[1]), id: match[2]! };
}

function invalid(issues: readonly Issue[]): AppError {
  return new AppError("INVALID", issues.map(({ path, message }) => `${path} ${message}`).join("; "), { issues });
}

async function run<T>(command: Promise<T>): Promise<T> {
  try {
    return await command;
  } catch (error) {
    throw toAppError(error);
  }
}
