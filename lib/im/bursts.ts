/**
 * Bursts: a user is woken once for what came in a conversation within a while, not for each message. The first message opens a
 * burst and, in the same script, the delayed message `im.push.due` that ends it; later ones join it. Redis decides when that
 * is.
 *
 *   join ──► open ──join──► open ──(due: close)──► closed ──(commit of the end)──► gone
 *
 * What joins after the close opens another burst. A closed one stays until its end is committed by the consume transaction of
 * the due message (`ended`): so whoever ends it may die anywhere, and the next sees the same.
 */

import { assert } from "../assert.ts";
import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { newPlacedId } from "../id.ts";
import { PENDING_MAX, type Write } from "../mq/index.ts";
import { BURSTS, defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import closeLua from "../redis/lua/im-push-close.lua" with { type: "text" };
import joinLua from "../redis/lua/im-push-join.lua" with { type: "text" };
import append from "../redis/lua/mq-append.lua" with { type: "text" };
import delay from "../redis/lua/mq-delay.lua" with { type: "text" };

/** Delayed messages that may wait in a partition before bursts are refused: the other half is for what users put off. */
const WAITING_MAX = PENDING_MAX / 2;
/** Bursts end within seconds. */
const FULL_RETRY_MS = 5_000;

const joinBurst = defineScript({
  name: "imPushJoin",
  lua: [append, delay, joinLua],
  keys: ["push", "bursts", "records", "due", "ended", "relay"],
  args: ["user", "conversation", "seq", "waitMs", "id", "pendingMax"],
  decode: (reply) => reply as "opened" | "joined" | "none" | "full",
});

const closeBurst = defineScript({
  name: "imPushClose",
  lua: closeLua,
  keys: ["bursts"],
  args: ["burst", "id"],
  decode: (reply) => (reply === null ? undefined : Number(reply)),
});

export interface Unseen {
  readonly user: string;
  readonly conversation: string;
  readonly seq: number;
}

export interface Bursts {
  /**
   * Opens a burst that is due in `waitMs` (1 or more), or joins the open one. Nothing for a user without a device to push to.
   * Repeated while the burst is open it has no further effect. Throws OVERLOADED when too much waits in the user's partition.
   */
  join(unseen: Unseen, waitMs: number): Promise<void>;
  /**
   * Closes the burst that the due message `id` ends. Resolves to its newest seq; undefined when its end is committed.
   * Idempotent.
   */
  close(user: string, conversation: string, id: string): Promise<number | undefined>;
  /** What the commit of a burst's end writes. */
  ended(id: string): Write;
}

export function createBursts(redis: RedisClient, keys: Keys, clock: Clock): Bursts {
  return {
    async join({ user, conversation, seq }, waitMs) {
      // What waits no time at all would be appended, and the script has no stream for that.
      assert(waitMs >= 1, "a burst is open for a while");
      const partition = keys.partitionOf(user);
      const joined = await joinBurst(redis, {
        ...{ push: keys.push(user), bursts: keys.own(partition, BURSTS) },
        ...{ records: keys.delayed(partition), due: keys.delayedDue(partition), ended: keys.delayedEnded(partition) },
        relay: keys.topic("im.relay", partition),
        ...{ user, conversation, seq, waitMs, id: newPlacedId(clock.now(), partition), pendingMax: WAITING_MAX },
      });
      if (joined === "full") {
        throw new AppError("OVERLOADED", "too many pushes wait", { retryAfterMs: FULL_RETRY_MS });
      }
    },
    close: (user, conversation, id) =>
      closeBurst(redis, {
        bursts: keys.own(keys.partitionOf(user), BURSTS),
        burst: `${user}/${conversation}`,
        id,
      }),
    ended: (id) => ["HDEL", BURSTS, id],
  };
}
