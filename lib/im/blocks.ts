/**
 * Whom a user has blocked: he may not write to the user directly. The list is the user's own; what enforces it lies with the
 * direct conversation of the two, where the commit of a send sees it without a look elsewhere. It is there before the answer.
 */

import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { directConversationId } from "../id.ts";
import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import blockLua from "../redis/lua/im-block.lua" with { type: "text" };
import stateLua from "../redis/lua/im-state.lua" with { type: "text" };

const BLOCKS_MAX = 1_000;
/** Blocks and unblocks of one pair at once that cross each other; every round somebody's is the last. */
const ROUNDS_MAX = 10;

const silence = defineScript({
  name: "imBlock",
  lua: [stateLua, blockLua],
  keys: ["members", "silenced"],
  args: ["user", "isBlocked"],
  decode: (reply) => reply === 1,
});

export interface Block {
  readonly user: string;
  readonly since: number;
}

export interface Blocks {
  /** Newest first. */
  list(by: string): Promise<Block[]>;
  /** INVALID for oneself and beyond the limit. Idempotent: the first time counts. */
  add(by: string, user: string): Promise<Block>;
  remove(by: string, user: string): Promise<void>;
  has(by: string, user: string): Promise<boolean>;
}

export function createBlocks(redis: RedisClient, keys: Keys, clock: Clock): Blocks {
  const sinceOf = (by: string, user: string) => redis.zscore(keys.blocks(by), user);

  /** Makes the pair's conversation what the list says, until the list has not changed meanwhile. */
  async function enforce(by: string, user: string): Promise<void> {
    const conversation = await directConversationId(by, user);
    let wanted = (await sinceOf(by, user)) !== null;
    for (let round = 0; round < ROUNDS_MAX; round++) {
      const place = { members: keys.members(conversation), silenced: keys.silenced(conversation) };
      await silence(redis, { ...place, user, isBlocked: wanted ? 1 : 0 });
      const isSo = (await sinceOf(by, user)) !== null;
      if (isSo === wanted) return;
      wanted = isSo;
    }
    throw new AppError("OVERLOADED", "The user is being blocked and unblocked", { retryAfterMs: 200 });
  }

  return {
    async list(by) {
      const rows = await redis.zrevrange(keys.blocks(by), 0, -1, "WITHSCORES");
      return Array.from({ length: rows.length / 2 }, (_, i) => ({
        user: rows[2 * i]!,
        since: Number(rows[2 * i + 1]),
      }));
    },
    async add(by, user) {
      if (user === by) throw refusal("must be another user");
      // Two at once may pass the limit by one: it bounds memory, it is nothing that anybody counts on.
      const count = await redis.zcard(keys.blocks(by));
      if (count >= BLOCKS_MAX) throw refusal(`at most ${BLOCKS_MAX} users can be blocked`);
      await redis.zadd(keys.blocks(by), "NX", clock.now(), user);
      const since = Number(await sinceOf(by, user));
      await enforce(by, user);
      return { user, since };
    },
    async remove(by, user) {
      if (user === by) return;
      await redis.zrem(keys.blocks(by), user);
      await enforce(by, user);
    },
    has: async (by, user) => (await sinceOf(by, user)) !== null,
  };
}

function refusal(message: string): AppError {
  return new AppError("INVALID", `user: ${message}`, { issues: [{ path: "user", message }] });
}
