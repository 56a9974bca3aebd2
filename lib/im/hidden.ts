/**
 * Messages that a user has deleted for himself: they stay in the timeline, and the user's history and lists leave them out.
 * State of the user, not of the conversation, so it lies under the user's partition and is no entry.
 */

import { AppError } from "../errors.ts";
import type { Keys, RedisClient } from "../redis/index.ts";
import type { Conversations } from "./conversations.ts";
import type { Timeline } from "./timeline.ts";

/** Per user, over all conversations: some 60 bytes each. Whoever wants more than this out of sight leaves the conversation. */
const HIDDEN_MAX = 10_000;

export interface Hidden {
  /** Hides a message. NOT_MEMBER, NOT_FOUND; INVALID when the user hides too many. Idempotent. */
  add(user: string, conversation: string, seq: number): Promise<void>;
  /** Which of these the user has hidden. One command. */
  among(user: string, places: readonly Place[]): Promise<boolean[]>;
}

export interface Place {
  readonly conversation: string;
  readonly seq: number;
}

export interface HiddenParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly conversations: Pick<Conversations, "state">;
  readonly timeline: Timeline;
}

export function createHidden({ redis, keys, conversations, timeline }: HiddenParts): Hidden {
  const memberOf = ({ conversation, seq }: Place) => `${conversation}/${seq}`;
  return {
    async add(user, conversation, seq) {
      const state = await conversations.state(user, conversation);
      if (!state) throw new AppError("NOT_MEMBER");
      const found = await timeline.at(conversation, state.epoch, seq);
      if (found?.kind !== "message") throw new AppError("NOT_FOUND", "There is no such message");
      // Two at once may pass the limit by one: it bounds memory, it is nothing that anybody counts on.
      const count = await redis.scard(keys.hidden(user));
      if (count >= HIDDEN_MAX) {
        const message = `at most ${HIDDEN_MAX} messages can be deleted for oneself`;
        throw new AppError("INVALID", message, { issues: [{ path: "for", message }] });
      }
      await redis.sadd(keys.hidden(user), memberOf({ conversation, seq }));
    },
    async among(user, places) {
      if (places.length === 0) return [];
      const found = await redis.smismember(keys.hidden(user), ...places.map(memberOf));
      return found.map((one) => one === 1);
    },
  };
}
