/**
 * Who there is: an index of all users that are known, per partition, by when they were seen last. A connection puts a user there
 * (im-attach.lua, im-offline.lua); who never connected is put there with the first conversation that he is a member of.
 */

import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import pageLua from "../redis/lua/im-users-page.lua" with { type: "text" };

const readPage = defineScript({
  name: "imUsersPage",
  lua: pageLua,
  keys: ["users"],
  args: ["seenMs", "user", "count"],
  decode: (reply) => reply as string[],
});

/** A user of the index; also the place behind him in a walk. */
export interface SeenUser {
  readonly user: string;
  readonly seenMs: number;
}

export interface UserIndex {
  /** Takes in those who are not in it, as seen at that time. Others keep their place. */
  note(users: ReadonlyMap<string, number>): Promise<void>;
  /**
   * The next users of a partition, those seen longest ago first. A walk from page to page misses nobody who is in the index when it
   * begins; who is seen meanwhile comes again.
   */
  page(partition: number, behind: SeenUser | undefined, count: number): Promise<SeenUser[]>;
}

export function createUserIndex(redis: RedisClient, keys: Keys): UserIndex {
  return {
    async note(users) {
      const byPartition = new Map<number, (string | number)[]>();
      for (const [user, seenMs] of users) {
        const partition = keys.partitionOf(user);
        const rows = byPartition.get(partition) ?? [];
        byPartition.set(partition, rows);
        rows.push(seenMs, user);
      }
      await Promise.all(
        Array.from(byPartition, ([partition, rows]) => redis.zadd(keys.users(partition), "NX", ...rows)),
      );
    },
    async page(partition, behind, count) {
      const rows = await readPage(redis, {
        users: keys.users(partition),
        seenMs: behind?.seenMs ?? "-inf",
        user: behind?.user ?? "",
        count,
      });
      return Array.from({ length: rows.length / 2 }, (_, i) => ({
        user: rows[2 * i]!,
        seenMs: Number(rows[2 * i + 1]),
      }));
    },
  };
}
