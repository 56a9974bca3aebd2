/**
 * Errands: work that goes on in the background, at a rate, until it is done, whoever dies. A record (a hash) says what is to be done,
 * how far it has come, and who runs it; a set says which ones are open.
 *
 *   running ◄──► paused
 *      │  └────────┴──► cancelled
 *      └──the runner──► done
 *
 * Any process may call runErrands again and again; a lease on the record keeps an errand with one runner at a time. Whoever has it does
 * a step, notes how far it came, and lets it go. One that dies in between leaves a step of which its successor does not know what was
 * done: a step must be one that may be done twice.
 */

import { defineScript, type RedisClient } from "../redis/index.ts";
import claimLua from "../redis/lua/mq-errand-claim.lua" with { type: "text" };
import noteLua from "../redis/lua/mq-errand-note.lua" with { type: "text" };

export type ErrandState = "running" | "paused" | "done" | "cancelled";

/** The key of the open ones' set, and of the record; both share a hash tag. */
export interface ErrandPlace {
  readonly open: string;
  readonly record: string;
  readonly id: string;
}

/** The fields of a record beside those that its owner keeps in it: `state`, `runner`, `lease`, `ended`. */
export type ErrandFields = readonly (string | number)[];

interface ErrandNote {
  /** Of one step; "" for an operator. */
  readonly runner: string;
  /** Default: only a running one. */
  readonly from?: readonly ErrandState[];
  readonly state: ErrandState;
  /** Fields and values in turn. */
  readonly fields?: ErrandFields;
  readonly leaseMs?: number;
  /** Of one that ends: how long the record is kept. */
  readonly keepMs: number;
}

const claimScript = defineScript({
  name: "mqErrandClaim",
  lua: claimLua,
  keys: ["record"],
  args: ["runner", "leaseMs"],
  decode: (reply) => {
    const [outcome, nowMs, values = []] = reply as ["granted" | "held" | "ended" | "gone", string, string[]];
    if (outcome !== "granted") return outcome;
    const fields: Record<string, string> = {};
    for (let i = 0; i < values.length; i += 2) fields[values[i]!] = values[i + 1]!;
    return { nowMs: Number(nowMs), fields };
  },
});

const noteScript = defineScript({
  name: "mqErrandNote",
  lua: noteLua,
  keys: ["open", "record"],
  args: ["id", "runner", "from", "state", "leaseMs", "keepMs"],
  hasRest: true,
  decode: (reply) => reply as "ok" | "lost" | "not_found" | ErrandState,
});

/** For one step, under a runner name of its own. `held` by another, `ended` when it does not run. */
export async function claimErrand(redis: RedisClient, place: ErrandPlace, runner: string, leaseMs: number) {
  const claim = await claimScript(redis, { record: place.record, runner, leaseMs });
  if (claim !== "gone") return claim;
  // It was paused for longer than its owner keeps it.
  await noteErrand(redis, place, { runner: "", state: "cancelled", keepMs: 0 });
  return "ended";
}

/**
 * Notes progress, and the state that it is in from now on. `ok`; `lost` to another runner: stop; or the state that it has instead, of one
 * that was paused or ended meanwhile: what the runner did is noted all the same.
 */
export function noteErrand(redis: RedisClient, { open, record, id }: ErrandPlace, note: ErrandNote) {
  const { runner, from = ["running"], state, fields = [], leaseMs = 0, keepMs } = note;
  return noteScript(redis, {
    open,
    record,
    id,
    runner,
    from: from.join(" "),
    state,
    leaseMs,
    keepMs,
    restArgs: fields,
  });
}

/**
 * One step of every open errand, one after the other: their rates add up to what one runner can do anyway. Throws the first error after
 * it has tried all; again goes on from where each stood.
 */
export async function runErrands(
  redis: RedisClient,
  open: string,
  step: (id: string) => Promise<void>,
  onFailure: (id: string, error: unknown) => void,
): Promise<void> {
  const ids = await redis.smembers(open);
  let failure: unknown;
  for (const id of ids.sort()) {
    try {
      await step(id);
    } catch (error) {
      onFailure(id, error);
      failure ??= error;
    }
  }
  if (failure !== undefined) throw failure;
}

interface Rate {
  readonly perSecond: number;
  /** Up to when, ms, it is used up. */
  readonly spentMs: number;
}

/**
 * How many it allows now, and up to when it is used up with them. Who comes late makes up for no more than `burstMs` of it, or for one:
 * a slow rate would never come to any.
 */
export function spendRate({ perSecond, spentMs }: Rate, nowMs: number, burstMs: number) {
  const oneMs = Math.floor(1_000 / perSecond) + 1;
  const from = Math.max(spentMs, nowMs - Math.max(burstMs, oneMs));
  const count = Math.max(0, Math.floor(((nowMs - from) * perSecond) / 1_000));
  return { count, spentMs: from + Math.ceil((count * 1_000) / perSecond) };
}
