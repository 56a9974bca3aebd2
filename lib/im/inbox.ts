/**
 * A user's conversation list: an index of conversations by last activity, derived from the events and kept under the user's
 * own partition. It holds no truth: what a list shows of a conversation is read from the conversation itself. Channels are not
 * in it, for an index entry per subscriber and message is what they are spared; a page takes them in by their own activity.
 */

import type { Keys, RedisClient } from "../redis/index.ts";
import type { Channels } from "./channels.ts";

export interface Inbox {
  /** Lists the conversation for these users, at least as recent as `activeMs`. Idempotent; never moves back. */
  touch(users: Iterable<string>, conversation: string, activeMs: number): Promise<void>;
  drop(users: Iterable<string>, conversation: string): Promise<void>;
  /** Applies many at once: user -> conversation -> time, undefined to drop. One pipeline. */
  apply(changes: InboxChanges): Promise<void>;
  page(user: string, limit: number, before?: string): Promise<{ conversations: string[]; next: string | undefined }>;
}

export type InboxChanges = ReadonlyMap<string, ReadonlyMap<string, number | undefined>>;

export function createInbox(redis: RedisClient, keys: Keys, channels: Channels): Inbox {
  async function apply(changes: InboxChanges): Promise<void> {
    const pending: Promise<unknown>[] = [];
    for (const [user, conversations] of changes) {
      const touched: (string | number)[] = [];
      const dropped: string[] = [];
      for (const [conversation, activeMs] of conversations) {
        if (activeMs === undefined) dropped.push(conversation);
        else touched.push(activeMs, conversation);
      }
      if (touched.length > 0) pending.push(redis.zadd(keys.inbox(user), "GT", ...touched));
      if (dropped.length > 0) pending.push(redis.zrem(keys.inbox(user), ...dropped));
    }
    await Promise.all(pending);
  }

  const each = (users: Iterable<string>, conversation: string, activeMs: number | undefined) =>
    apply(new Map(Array.from(users, (user) => [user, new Map([[conversation, activeMs]])])));

  return {
    apply,
    touch: (users, conversation, activeMs) => each(users, conversation, activeMs),
    drop: (users, conversation) => each(users, conversation, undefined),
    async page(user, limit, before) {
      // `<time>:<conversation>` of the page's last row; among equal times the order is by conversation, descending.
      const [time, last] = before === undefined ? [undefined, undefined] : before.split(":");
      const count = limit + TIES_MAX;
      const [rows, ofChannels] = await Promise.all([
        redis.zrevrangebyscore(keys.inbox(user), time ?? "+inf", "-inf", "WITHSCORES", "LIMIT", 0, count),
        channels.of(user),
      ]);
      const found = [...ofChannels];
      for (let i = 0; i < rows.length; i += 2) found.push({ conversation: rows[i]!, activeMs: Number(rows[i + 1]) });
      const page = found
        .filter(({ conversation, activeMs }) => {
          if (time === undefined || activeMs < Number(time)) return true;
          return activeMs === Number(time) && (last === undefined || conversation < last);
        })
        .sort((a, b) => b.activeMs - a.activeMs || (a.conversation < b.conversation ? 1 : -1))
        .slice(0, limit);
      const end = page.at(-1);
      const next = page.length === limit && end ? `${end.activeMs}:${end.conversation}` : undefined;
      return { conversations: page.map((row) => row.conversation), next };
    },
  };
}

/** Conversations of one user that may share one millisecond at a page's edge and still be paged through exactly. */
const TIES_MAX = 100;
