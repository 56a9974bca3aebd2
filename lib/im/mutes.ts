/**
 * Conversations of which a user wants no notice for a while. It changes nothing of what is delivered: clients show it, and who
 * wakes a phone asks first. State of the user, under the user's partition.
 */

import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import type { Keys, RedisClient } from "../redis/index.ts";
import type { Conversations } from "./conversations.ts";

/** Per user. */
const MUTES_MAX = 10_000;

export interface Mutes {
  /** Until `untilMs`; a time that has passed ends it. Answers with when it ends, if it is muted now. NOT_MEMBER, INVALID. */
  set(user: string, conversation: string, untilMs: number): Promise<number | undefined>;
  /** When each of these mutes ends; undefined for what is not muted now. One command. */
  of(user: string, conversations: readonly string[]): Promise<(number | undefined)[]>;
}

export interface MuteParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly conversations: Pick<Conversations, "state">;
}

export function createMutes({ redis, keys, clock, conversations }: MuteParts): Mutes {
  /** Drops the mutes that have ended. */
  async function makeRoom(user: string): Promise<void> {
    const all = await redis.hgetall(keys.mutes(user));
    const ended = Object.keys(all).filter((conversation) => Number(all[conversation]) <= clock.now());
    if (ended.length === 0) {
      const message = `at most ${MUTES_MAX} conversations can be muted`;
      throw new AppError("INVALID", message, { issues: [{ path: "until", message }] });
    }
    await redis.hdel(keys.mutes(user), ...ended);
  }

  return {
    async set(user, conversation, untilMs) {
      if (!(await conversations.state(user, conversation))) throw new AppError("NOT_MEMBER");
      if (untilMs <= clock.now()) {
        await redis.hdel(keys.mutes(user), conversation);
        return undefined;
      }
      if ((await redis.hlen(keys.mutes(user))) >= MUTES_MAX) await makeRoom(user);
      await redis.hset(keys.mutes(user), conversation, untilMs);
      return untilMs;
    },
    async of(user, conversations) {
      if (conversations.length === 0) return [];
      const found = await redis.hmget(keys.mutes(user), ...conversations);
      return found.map((until) => (Number(until) > clock.now() ? Number(until) : undefined));
    },
  };
}
