/**
 * How far members have come: what has reached a device of theirs, and what they have read. Both only move forward; unread is
 * messages minus messages at the read cursor, never stored. In conversations with many members only the reader himself is told.
 */

import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { newId } from "../id.ts";
import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import deliveredLua from "../redis/lua/im-delivered.lua" with { type: "text" };
import readLua from "../redis/lua/im-read.lua" with { type: "text" };
import stateLua from "../redis/lua/im-state.lua" with { type: "text" };
import append from "../redis/lua/mq-append.lua" with { type: "text" };
import type { Conversations } from "./conversations.ts";
import { type Notifier, notification } from "./notify.ts";
import { LIMITS } from "./protocol.ts";
import type { DeliveredReply, ReadReply, ReceiptsReply } from "./requests.ts";
import type { Room } from "./room.ts";
import type { Timeline } from "./timeline.ts";

const moveCursor = defineScript({
  name: "imRead",
  lua: [append, stateLua, readLua],
  keys: ["conv", "members", "log", "events", "eventGroups"],
  args: ["id", "user", "seq", "givenOrdinal", "eventId", "eventsMax"],
  decode: (reply) => reply as string | [number, number],
});

const moveDelivered = defineScript({
  name: "imDelivered",
  lua: [stateLua, deliveredLua],
  keys: ["conv", "members", "delivered"],
  args: ["user", "seq", "sizeMax"],
  decode: (reply) => reply as string | [number, ...string[]],
});

/** Moves `user`'s cursor to `seq`. Behind it nothing happens. INVALID beyond the head, NOT_MEMBER to outsiders. */
export async function read(
  { redis, keys, clock, conversations, timeline, room }: ReceiptParts,
  user: string,
  conversation: string,
  seq: number,
): Promise<ReadReply> {
  const call = (givenOrdinal: number | "") =>
    moveCursor(redis, {
      conv: keys.conversation(conversation),
      members: keys.members(conversation),
      log: keys.log(conversation),
      ...room.of(conversation),
      id: conversation,
      user,
      seq,
      givenOrdinal,
      eventId: newId(clock.now()),
    });
  let reply = await room.run(conversation, () => call(""));
  if (reply === "NEEDS_ORDINAL") {
    const state = await conversations.state(user, conversation);
    const ordinal = state && (await ordinalAt(timeline, conversation, state.epoch, seq));
    if (ordinal === undefined) {
      throw new AppError("OVERLOADED", "The archive does not have this entry yet", { retryAfterMs: 500 });
    }
    reply = await room.run(conversation, () => call(ordinal));
  }
  if (typeof reply !== "string") return { read: reply[0], unread: reply[1] };
  throw refusalOf(reply);
}

/** How many messages there are up to the entry. Of one that is kept no longer: up to the first one that is, without it. */
async function ordinalAt(timeline: Timeline, conversation: string, epoch: string, seq: number) {
  const entry = await timeline.at(conversation, epoch, seq);
  if (entry) return entry.ordinal;
  const first = await timeline.first(conversation, epoch);
  return first && seq < first.seq ? first.ordinal - Number(first.kind === "message") : undefined;
}

/** Notes that `seq` has reached a device of `user`, and tells the other members. Errors as of `read`. */
export async function delivered(
  { redis, keys, notifier }: Pick<ReceiptParts, "redis" | "keys"> & { readonly notifier: Notifier },
  user: string,
  conversation: string,
  seq: number,
): Promise<DeliveredReply> {
  const reply = await moveDelivered(redis, {
    conv: keys.conversation(conversation),
    members: keys.members(conversation),
    delivered: keys.delivered(conversation),
    user,
    seq,
    sizeMax: LIMITS.receiptMembers,
  });
  if (typeof reply === "string") throw refusalOf(reply);
  const [reached, ...others] = reply;
  await notifier.toUsers(others, notification("delivered", JSON.stringify({ conversation, user, seq: reached })));
  return { delivered: reached };
}

/** How far the members are; nobody is named where nobody is told. NOT_MEMBER to outsiders. */
export async function receipts(
  { redis, keys, conversations }: Pick<ReceiptParts, "redis" | "keys" | "conversations">,
  user: string,
  conversation: string,
): Promise<ReceiptsReply> {
  const state = await conversations.state(user, conversation);
  if (!state) throw new AppError("NOT_MEMBER");
  if (state.type === "channel" || state.size > LIMITS.receiptMembers) return { receipts: [] };
  const [{ "#": _place, ...members }, reached] = await Promise.all([
    redis.hgetall(keys.members(conversation)),
    redis.hgetall(keys.delivered(conversation)),
  ]);
  const found = Object.entries(members).map(([member, value]) => {
    const readSeq = Number(value.split(" ")[3]);
    // What was read has arrived.
    return { user: member, delivered: Math.max(readSeq, Number(reached[member] ?? 0)), read: readSeq };
  });
  return { receipts: found.sort((a, b) => (a.user < b.user ? -1 : 1)) };
}

function refusalOf(reply: string): AppError {
  if (reply === "NOT_MEMBER") return new AppError("NOT_MEMBER");
  const message = `must be at most the head, ${reply.slice("BEYOND ".length)}`;
  return new AppError("INVALID", `seq: ${message}`, { issues: [{ path: "seq", message }] });
}

export interface ReceiptParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly conversations: Conversations;
  readonly timeline: Timeline;
  readonly room: Room;
}
