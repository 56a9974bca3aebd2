/**
 * What happens to a message after it was sent: edits, its recall, reactions. Each is an entry of the timeline with a seq of its
 * own; the script decides and commits. A message behind the hot window is read from the archive first and handed to the script.
 */

import type { Clock } from "../clock.ts";
import { AppError, type ErrorCode, invalidField } from "../errors.ts";
import { newId } from "../id.ts";
import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import amendLua from "../redis/lua/im-amend.lua" with { type: "text" };
import entry from "../redis/lua/im-entry.lua" with { type: "text" };
import stateLua from "../redis/lua/im-state.lua" with { type: "text" };
import append from "../redis/lua/mq-append.lua" with { type: "text" };
import type { Conversations } from "./conversations.ts";
import { FOLDED_PARTS, foldedMessage, ownPart } from "./fold.ts";
import { rightsOf } from "./permissions.ts";
import { type Body, isTextBody, LIMITS, type Message } from "./protocol.ts";
import type { Room } from "./room.ts";
import type { Timeline } from "./timeline.ts";

const amendMessage = defineScript({
  name: "imAmend",
  lua: [append, stateLua, entry, amendLua],
  keys: ["conv", "members", "log", "events", "folds", "reactors", "eventGroups"],
  args: [
    "id",
    "by",
    "action",
    "target",
    "eventId",
    "rights",
    "anyRights",
    "windowMs",
    "body",
    "isText",
    "emoji",
    "kindsMax",
    "ownMax",
    "usersMax",
    "archivedAsOf",
    "archivedRecord",
    "archivedContent",
    "archivedReactions",
    "archivedOwn",
    "eventsMax",
  ],
  decode: (reply) => reply as string | ["NEEDS_TARGET", string] | [string, string, string],
});

const NO_TARGET = {
  archivedAsOf: "-",
  archivedRecord: "",
  archivedContent: "",
  archivedReactions: "",
  archivedOwn: "",
};
/** Each time another trim came in between; trims of a conversation are seconds apart. */
const TRIES_MAX = 5;

const REFUSALS: Record<string, readonly [ErrorCode, string?]> = {
  NOT_MEMBER: ["NOT_MEMBER"],
  MUTED: ["MUTED"],
  BLOCKED: ["FORBIDDEN", "The other user takes no messages from you"],
  FORBIDDEN: ["FORBIDDEN"],
  DISSOLVED: ["FORBIDDEN", "The conversation is dissolved"],
  NOT_FOUND: ["NOT_FOUND", "There is no such message"],
  RECALLED: ["FORBIDDEN", "The message is recalled"],
  TOO_LATE: ["FORBIDDEN", "The time for recalling it is over"],
};
/** Refusals that name a field. */
const FAULTS: Record<string, readonly [path: string, message: string]> = {
  BODY: ["body", `must be {text} of 1 to ${LIMITS.textBytes} bytes: the message is a text`],
  KINDS: ["emoji", `a message has at most ${LIMITS.reactionKinds} kinds of reaction`],
  OWN_REACTIONS: ["emoji", `a user has at most ${LIMITS.reactionsPerUser} reactions on a message`],
};

export interface AmendParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly conversations: Conversations;
  readonly timeline: Timeline;
  readonly room: Room;
  /** How long a sender may recall. */
  readonly recallMs: number;
}

interface Target {
  readonly conversation: string;
  readonly seq: number;
}

/**
 * Each answers with the message as it is now, also when it was so before. Errors: NOT_MEMBER, NOT_FOUND, FORBIDDEN (role, author,
 * window, recalled, dissolved), MUTED, INVALID, OVERLOADED while the archive lacks the message.
 */
export interface Amendments {
  /** By its author alone. */
  edit(by: string, target: Target, body: Body): Promise<Message>;
  /** By its author for a while, by owner and admins at any time. */
  recall(by: string, target: Target): Promise<Message>;
  react(by: string, target: Target, emoji: string, isOn: boolean): Promise<Message>;
}

export function createAmendments(parts: AmendParts): Amendments {
  const { redis, keys, clock, conversations, timeline, room, recallMs } = parts;

  async function amend(by: string, { conversation, seq }: Target, change: Change): Promise<Message> {
    const input = {
      conv: keys.conversation(conversation),
      members: keys.members(conversation),
      log: keys.log(conversation),
      ...room.of(conversation),
      folds: keys.folds(conversation),
      reactors: keys.reactors(conversation, seq),
      id: conversation,
      by,
      target: seq,
      eventId: newId(clock.now()),
      anyRights: rightsOf("recallAny"),
      windowMs: recallMs,
      kindsMax: LIMITS.reactionKinds,
      ownMax: LIMITS.reactionsPerUser,
      usersMax: LIMITS.reactionUsers,
      body: "",
      isText: 0,
      emoji: "",
      ...change,
    };
    let target = NO_TARGET;
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const call = { ...input, ...target };
      const reply = await room.run(conversation, () => amendMessage(redis, call));
      if (typeof reply === "string") throw refusalOf(reply);
      if (reply[0] !== "NEEDS_TARGET") return foldedMessage(reply[0], { content: reply[1], reactions: reply[2] });
      target = await archivedTarget(by, conversation, seq);
    }
    throw new AppError("OVERLOADED", "The conversation is being trimmed", { retryAfterMs: 200 });
  }

  async function archivedTarget(by: string, conversation: string, seq: number): Promise<typeof NO_TARGET> {
    const state = await conversations.state(by, conversation);
    if (!state) throw new AppError("NOT_MEMBER");
    const wanted = [...FOLDED_PARTS, ownPart(by)];
    const { entry: found, asOf } = await timeline.archivedAt({ conversation, epoch: state.epoch, seq, parts: wanted });
    if (!found && seq < ((await timeline.first(conversation, state.epoch))?.seq ?? 0)) throw refusalOf("NOT_FOUND");
    if (!found) throw new AppError("OVERLOADED", "The archive does not have this entry yet", { retryAfterMs: 500 });
    if (found.kind !== "message") throw refusalOf("NOT_FOUND");
    return {
      archivedAsOf: asOf,
      archivedRecord: found.record,
      archivedContent: found.parts?.content ?? "",
      archivedReactions: found.parts?.reactions ?? "",
      archivedOwn: found.parts?.[ownPart(by)] ?? "",
    };
  }

  return {
    edit: (by, target, body) =>
      amend(by, target, {
        action: "edit",
        rights: rightsOf("speak"),
        body: JSON.stringify(body),
        isText: isTextBody(body) ? 1 : 0,
      }),
    recall: (by, target) => amend(by, target, { action: "recall", rights: rightsOf("recallOwn") }),
    react: (by, target, emoji, isOn) =>
      amend(by, target, { action: isOn ? "react" : "unreact", rights: rightsOf("speak"), emoji }),
  };
}

type Change =
  | { action: "edit"; rights: string; body: string; isText: number }
  | { action: "recall"; rights: string }
  | { action: "react" | "unreact"; rights: string; emoji: string };

function refusalOf(code: string): AppError {
  const fault = FAULTS[code];
  if (fault) {
    const [path, message] = fault;
    return invalidField(path, message);
  }
  const [error, detail] = REFUSALS[code] ?? (["INTERNAL"] as const);
  return new AppError(error, detail);
}
