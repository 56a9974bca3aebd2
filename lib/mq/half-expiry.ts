/**
 * The end of half messages that nobody decided: a chore that some process runs every few seconds. It hands out no check and decides
 * nothing; what it expires, an operator resumes, commits or rolls back.
 */

import { defineScript, redisTimeMs, toAppError } from "../redis/index.ts";
import halfLua from "../redis/lua/mq-half.lua" with { type: "text" };
import expireLua from "../redis/lua/mq-half-expire.lua" with { type: "text" };
import { checksOf, type HalfContext, parseHead } from "./half.ts";

/** Per state, partition and script call: some 0.5 ms. */
const EXPIRE_MAX = 100;
/** Script calls per partition and run: what is left then waits for the next run. */
const ROUNDS_MAX = 20;
/** Expired ones kept per partition; with messages of 1 KB some 12 MB. Beyond, the oldest are dropped and counted. */
const EXPIRED_MAX = 10_000;
/** Ids in one line of the log. */
const LOGGED_MAX = 10;

const expireScript = defineScript({
  name: "mqHalfExpire",
  lua: [halfLua, expireLua],
  keys: ["half", "prepared", "expired", "ended"],
  args: ["expiredMs", "expiredMax", "limit"],
  hasRest: true,
  decode: (reply) => {
    const [expired, dropped, forgotten] = reply as [string[], string[], number];
    return { expired, dropped, forgotten };
  },
});

export interface HalfExpiry {
  /** Prepared ones whose budget or checks were used up. */
  readonly expired: number;
  /** Expired ones whose time was over, undecided: each a message that will never be. */
  readonly dropped: number;
}

/** Expires, drops and forgets what is over, in all partitions. Again has no further effect. Throws AppError for Redis errors. */
export async function expireHalves(context: HalfContext): Promise<HalfExpiry> {
  const total = { expired: 0, dropped: 0 };
  try {
    for (let partition = 0; partition < context.keys.partitions; partition++) {
      for (let round = 0; round < ROUNDS_MAX; round++) {
        const { expired, dropped, isDone } = await expireSome(context, partition);
        total.expired += expired;
        total.dropped += dropped;
        if (isDone) break;
      }
    }
  } catch (error) {
    throw toAppError(error);
  }
  return total;
}

async function expireSome(context: HalfContext, partition: number) {
  const { keys, redis, metrics, log, times } = context;
  const half = keys.half(partition);
  // The script looks again.
  const nowMs = await redisTimeMs(redis.commands);
  const prepared = keys.halfIn(partition, "prepared");
  const ids = await redis.commands.zrangebyscore(prepared, "-inf", nowMs, "LIMIT", 0, EXPIRE_MAX);
  const heads = ids.length === 0 ? [] : await redis.commands.hmget(half, ...ids);
  const dues = ids.map((id, i) => {
    const head = heads[i];
    return head ? keys.halfDue(partition, checksOf(parseHead(id, head))) : undefined;
  });
  const dueKeys = [...new Set(dues.filter((due) => due !== undefined))];
  const reply = await expireScript(redis.commands, {
    half,
    prepared,
    expired: keys.halfIn(partition, "expired"),
    ended: keys.halfIn(partition, "ended"),
    expiredMs: times.expiredMs,
    expiredMax: EXPIRED_MAX,
    limit: EXPIRE_MAX,
    restKeys: dueKeys,
    restArgs: ids.flatMap((id, i) => (dues[i] === undefined ? [] : [id, dueKeys.indexOf(dues[i]!) + 1])),
  });
  if (reply.expired.length > 0) {
    metrics.halves.inc({ outcome: "expired" }, reply.expired.length);
    log.warn(
      { partition, ...sample(reply.expired) },
      "half messages expired undecided: resume, commit or roll them back",
    );
  }
  if (reply.dropped.length > 0) {
    metrics.halves.inc({ outcome: "dropped" }, reply.dropped.length);
    log.error({ partition, ...sample(reply.dropped) }, "expired half messages were dropped undecided");
  }
  const counts = [ids.length, reply.dropped.length, reply.forgotten];
  return {
    expired: reply.expired.length,
    dropped: reply.dropped.length,
    isDone: counts.every((count) => count < EXPIRE_MAX),
  };
}

const sample = (ids: readonly string[]) => ({ count: ids.length, transactions: ids.slice(0, LOGGED_MAX) });
