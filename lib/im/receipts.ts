/** Read cursors. A cursor only moves forward; unread is messages minus messages at the cursor, never stored. */

import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { newId } from "../id.ts";
import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import entry from "../redis/lua/im-entry.lua" with { type: "text" };
import readLua from "../redis/lua/im-read.lua" with { type: "text" };
import append from "../redis/lua/mq-append.lua" with { type: "text" };
import type { Conversations } from "./conversations.ts";
import type { ReadReply } from "./requests.ts";
import type { Timeline } from "./timeline.ts";

const moveCursor = defineScript({
  name: "imRead",
  lua: [append, entry, readLua],
  keys: ["conv", "members", "log", "events"],
  args: ["id", "user", "seq", "givenOrdinal", "eventId"],
  decode: (reply) => reply as string | [number, number],
});

/** Moves `user`'s cursor to `seq`. Behind it nothing happens. INVALID beyond the head, NOT_MEMBER to outsiders. */
export async function read(
  { redis, keys, clock, conversations, timeline }: ReceiptParts,
  user: string,
  conversation: string,
  seq: number,
): Promise<ReadReply> {
  const call = (givenOrdinal: number | "") =>
    moveCursor(redis, {
      conv: keys.conversation(conversation),
      members: keys.members(conversation),
      log: keys.log(conversation),
      events: keys.topic("im.events", keys.partitionOf(conversation)),
      id: conversation,
      user,
      seq,
      givenOrdinal,
      eventId: newId(clock.now()),
    });
  let reply = await call("");
  if (reply === "NEEDS_ORDINAL") {
    const state = await conversations.state(user, conversation);
    const archived = state && (await timeline.at(conversation, state.epoch, seq));
    if (!archived) throw new AppError("OVERLOADED", "The archive does not have this entry yet", { retryAfterMs: 500 });
    reply = await call(archived.ordinal);
  }
  if (typeof reply !== "string") return { read: reply[0], unread: reply[1] };
  if (reply === "NOT_MEMBER") throw new AppError("NOT_MEMBER");
  const message = `must be at most the head, ${reply.slice("BEYOND ".length)}`;
  throw new AppError("INVALID", `seq: ${message}`, { issues: [{ path: "seq", message }] });
}

export interface ReceiptParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly conversations: Conversations;
  readonly timeline: Timeline;
}
