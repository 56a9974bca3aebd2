/**
 * Winning users back who were not seen for long: `im.user.winback`, and a push if there is a text for it, at most once per user and
 * period. The index of users (users.ts) is walked again and again, a bounded piece at a time; the script decides and tells in one commit,
 * so any number of processes may walk it, and one that dies has told all of what it has noted.
 */

import type { Clock } from "../clock.ts";
import { newId } from "../id.ts";
import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import stateLua from "../redis/lua/im-state.lua" with { type: "text" };
import winbackLua from "../redis/lua/im-winback.lua" with { type: "text" };
import append from "../redis/lua/mq-append.lua" with { type: "text" };
import { imPush, imUsers } from "./topics.ts";
import { createUserIndex, type SeenUser } from "./users.ts";

/** Users per look into the index. */
const PAGE_MAX = 200;
/** Looks at one partition per sweep: 2 000 users, some 20 ms of Redis when all of them are to be won back. */
const PAGES_MAX = 10;

const winBack = defineScript({
  name: "imWinback",
  lua: [append, stateLua, winbackLua],
  keys: ["presence", "users", "winback", "usersTopic", "pushTopic"],
  args: ["user", "idleMs", "periodMs", "eventId", "noticeId", "noticeEnd"],
  decode: (reply) => reply === 1,
});

export interface WinbackOptions {
  /** Not seen for so long. */
  readonly idleMs: number;
  /** At most once in so long. */
  readonly periodMs: number;
  /** The push that goes with it; undefined: none. */
  readonly push: { readonly title: string; readonly text: string } | undefined;
}

export interface Winback {
  /**
   * Wins back who is due among the next users of the partition, at most 2 000 of them; the next sweep goes on behind them, and at the end
   * from the beginning. Resolves to how many it was. Throws Redis errors; again goes on.
   */
  sweep(partition: number): Promise<number>;
}

export function createWinback(redis: RedisClient, keys: Keys, clock: Clock, options: WinbackOptions): Winback {
  const { idleMs, periodMs, push } = options;
  const index = createUserIndex(redis, keys);
  /** Partition -> how far the walk has come. */
  const places = new Map<number, SeenUser>();
  const noticeEnd = push ? JSON.stringify(push).slice(1) : "";

  async function tryOne(partition: number, user: string): Promise<boolean> {
    return winBack(redis, {
      presence: keys.presence(user),
      users: keys.users(partition),
      winback: keys.winback(partition),
      usersTopic: keys.topic(imUsers.name, partition),
      pushTopic: keys.topic(imPush.name, partition),
      ...{ user, idleMs, periodMs, eventId: newId(clock.now()), noticeId: newId(clock.now()), noticeEnd },
    });
  }

  return {
    async sweep(partition) {
      // By this process's clock they are only looked for; the script has the word.
      const nowMs = clock.now();
      const noted = keys.winback(partition);
      // Of no meaning after one period; another one is for clocks that differ.
      await redis.zremrangebyscore(noted, "-inf", nowMs - 2 * periodMs);
      let count = 0;
      for (let pages = 0; pages < PAGES_MAX; pages++) {
        const page = await index.page(partition, places.get(partition), PAGE_MAX);
        const idle = page.filter(({ seenMs }) => seenMs <= nowMs - idleMs);
        const lasts = idle.length === 0 ? [] : await redis.zmscore(noted, ...idle.map(({ user }) => user));
        const due = idle.filter((_, i) => Number(lasts[i] ?? 0) <= nowMs - periodMs);
        const results = await Promise.all(due.map(({ user }) => tryOne(partition, user)));
        count += results.filter(Boolean).length;
        if (idle.length < PAGE_MAX) {
          places.delete(partition);
          break;
        }
        places.set(partition, idle.at(-1)!);
      }
      return count;
    },
  };
}
