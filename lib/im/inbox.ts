/**
 * A user's conversation list: an index of conversations by last activity, derived from the events and kept under the user's
 * own partition. It holds no truth: what a list shows of a conversation is read from the conversation itself.
 */

import type { Keys, RedisClient } from "../redis/index.ts";

export interface Inbox {
  /** Lists the conversation for these users, at least as recent as `activeMs`. Idempotent; never moves back. */
  touch(users: Iterable<string>, conversation: string, activeMs: number): Promise<void>;
  drop(users: Iterable<string>, conversation: string): Promise<void>;
  /** Applies many at once: user -> conversation -> time, undefined to drop. One pipeline. */
  apply(changes: InboxChanges): Promise<void>;
  page(user: string, limit: number, before?: string): Promise<{ conversations: string[]; next: string | undefined }>;
}

export type InboxChanges = ReadonlyMap<string, ReadonlyMap<string, number | undefined>>;

export function createInbox(redis: RedisClient, keys: Keys): Inbox {
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
      // `<time>:<conversation>` of the page's last row; among equal times Redis orders by conversation, descending here.
      const [time, last] =
        before === undefined ? ["+inf", undefined] : (before.split(":") as [string, string | undefined]);
      const rows = await redis.zrevrangebyscore(
        keys.inbox(user),
        time,
        "-inf",
        "WITHSCORES",
        "LIMIT",
        0,
        limit + TIES_MAX,
      );
      const found: { conversation: string; score: string }[] = [];
      for (let i = 0; i < rows.length && found.length < limit; i += 2) {
        const row = { conversation: rows[i]!, score: rows[i + 1]! };
        if (last !== undefined && row.score === time && row.conversation >= last) continue;
        found.push(row);
      }
      const end = found.at(-1);
      const next = found.length === limit && end ? `${end.score}:${end.conversation}` : undefined;
      return { conversations: found.map((row) => row.conversation), next };
    },
  };
}

/** Conversations of one user that may share one millisecond at a page's edge and still be paged through exactly. */
const TIES_MAX = 100;
