/**
 * One conversation in Redis without a user: he leaves it, as everybody leaves, so that whoever follows its events knows; then all that
 * names him there is rewritten, the entry of his leaving included. Seqs, ids and the epoch stay, so clients' cursors do.
 */

import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { newId } from "../id.ts";
import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import entry from "../redis/lua/im-entry.lua" with { type: "text" };
import eraseLua from "../redis/lua/im-erase.lua" with { type: "text" };
import leaveLua from "../redis/lua/im-erase-leave.lua" with { type: "text" };
import lookLua from "../redis/lua/im-erase-look.lua" with { type: "text" };
import stateLua from "../redis/lua/im-state.lua" with { type: "text" };
import append from "../redis/lua/mq-append.lua" with { type: "text" };
import type { Eraser } from "./erased-record.ts";
import type { Room } from "./room.ts";

/**
 * Entries of a window that is rewritten in one script: four hot windows, some 30 ms of Redis. One is longer only while the archive is
 * far behind; then it waits for the archive.
 */
const WINDOW_MAX = 5_000;
/** Successors that leave before they succeed. */
const TRIES_MAX = 5;
/** Subscribers of a channel without another admin among whom an owner is looked for. */
const HEIRS_LOOKED_AT = 1_000;

const look = defineScript({
  name: "imEraseLook",
  lua: lookLua,
  keys: ["conv", "members", "log", "folds", "delivered"],
  args: ["user", "quoted", "windowMax"],
  decode: (reply) => {
    const [type, member, creator, reached, rows, folds] = reply as [
      ...[string, string, string, string],
      ...[string[] | null, string[]],
    ];
    return { type, member, creator, reached, rows: rows ?? undefined, folds };
  },
});

const leave = defineScript({
  name: "imEraseLeave",
  lua: [append, stateLua, entry, leaveLua],
  keys: ["conv", "members", "log", "events", "eventGroups"],
  args: ["id", "user", "pseudonym", "successor", "eventId", "secondEventId", "eventsMax"],
  decode: (reply) => reply as 0 | 1 | "SUCCESSOR" | "EVENTS_FULL",
});

const erase = defineScript({
  name: "imErase",
  lua: eraseLua,
  keys: ["conv", "log", "folds", "delivered"],
  args: ["user", "pseudonym", "mark", "rowCount", "ownCount"],
  hasRest: true,
  decode: (reply) => {
    const [entries, parts] = reply as [number, number];
    return { entries, parts };
  },
});

export interface ErasedConversation {
  readonly hasLeft: boolean;
  readonly entries: number;
  readonly parts: number;
  /** Its window is too long to be rewritten: the archive has to come nearer first. */
  readonly mustWait: boolean;
}

export interface EraseConversationParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly room: Room;
}

/** Idempotent. Throws RATE_LIMITED while im.events is full, and Redis errors. */
export async function eraseConversation(
  parts: EraseConversationParts,
  conversation: string,
  { user, pseudonym, eraser }: { readonly user: string; readonly pseudonym: string; readonly eraser: Eraser },
): Promise<ErasedConversation> {
  const { redis, keys } = parts;
  const place = {
    conv: keys.conversation(conversation),
    log: keys.log(conversation),
    folds: keys.folds(conversation),
    delivered: keys.delivered(conversation),
  };
  const members = keys.members(conversation);
  const lookAgain = () => look(redis, { ...place, members, user, quoted: eraser.quoted, windowMax: WINDOW_MAX });
  let seen = await lookAgain();
  const hasLeft = seen.member !== "";
  if (hasLeft) {
    await takeOut(parts, conversation, user, pseudonym, seen.member);
    seen = await lookAgain();
  }
  if (seen.rows === undefined) return { hasLeft, entries: 0, parts: 0, mustWait: true };

  const rows: string[] = [];
  const own = new Set<number>();
  for (let i = 0; i < seen.rows.length; i += 3) {
    const [id, kind, record] = seen.rows.slice(i, i + 3) as [string, string, string];
    const erased = eraser.record(kind === "m" ? "message" : (kind as "edit"), Number.parseInt(id, 10), record);
    if (!erased) continue;
    rows.push(id, erased.record);
    if (erased.ownMessage !== undefined) own.add(erased.ownMessage);
  }
  const folds: string[] = [];
  for (let i = 0; i < seen.folds.length; i += 2) {
    const [field, part] = seen.folds.slice(i, i + 2) as [string, string];
    const erased = field.endsWith("r") && !own.has(Number.parseInt(field, 10)) ? eraser.reactions(part) : undefined;
    if (erased) folds.push(field, part, erased);
  }
  const isNamed = rows.length > 0 || folds.length > 0 || seen.creator === user || seen.reached !== "";
  if (!isNamed) return { hasLeft, entries: 0, parts: 0, mustWait: false };
  const done = await erase(redis, {
    ...place,
    ...{ user, pseudonym, mark: eraser.mark, rowCount: rows.length / 2, ownCount: own.size },
    restKeys: [...own].map((seq) => keys.reactors(conversation, seq)),
    restArgs: [...rows, ...own, ...folds],
  });
  return { hasLeft, ...done, mustWait: false };
}

async function takeOut(
  { redis, keys, clock, room }: EraseConversationParts,
  conversation: string,
  user: string,
  pseudonym: string,
  member: string,
): Promise<void> {
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    const isOwner = member.startsWith("o");
    const input = {
      ...room.of(conversation),
      conv: keys.conversation(conversation),
      members: keys.members(conversation),
      log: keys.log(conversation),
      id: conversation,
      user,
      pseudonym,
      successor: isOwner ? await successorOf(redis, keys, conversation, user) : "",
      eventId: newId(clock.now()),
      secondEventId: newId(clock.now()),
    };
    if ((await room.run(conversation, () => leave(redis, input))) !== "SUCCESSOR") return;
  }
  throw new AppError("OVERLOADED", "The conversation's members come and go", { retryAfterMs: 200 });
}

/** The admin who has been a member longest, else the member; "" when there is nobody. */
async function successorOf(redis: RedisClient, keys: Keys, conversation: string, user: string): Promise<string> {
  const members = keys.members(conversation);
  const staff = (await redis.hget(keys.conversation(conversation), "staff"))?.split(" ") ?? [];
  const admins = staff.filter((name) => name !== "" && name !== user);
  let candidates: [string, string | null][];
  if (admins.length > 0) {
    const values = await redis.hmget(members, ...admins);
    candidates = admins.map((name, i) => [name, values[i] ?? null]);
  } else {
    // All of a group, for it has at most 10 000; of a channel the first ones that come.
    const isChannel = staff.length > 0;
    const found = isChannel
      ? (await redis.hscan(members, "0", "COUNT", HEIRS_LOOKED_AT))[1]
      : Object.entries(await redis.hgetall(members)).flat();
    candidates = Array.from({ length: found.length / 2 }, (_, i) => [found[2 * i]!, found[2 * i + 1]!]);
  }
  const heirs = candidates.flatMap(([name, value]) => {
    if (name === "#" || name === user || value === null) return [];
    const [role, joined] = value.split(" ");
    return [{ name, isAdmin: role === "a", joined: Number(joined) }];
  });
  heirs.sort((a, b) => Number(b.isAdmin) - Number(a.isAdmin) || a.joined - b.joined || (a.name < b.name ? -1 : 1));
  return heirs[0]?.name ?? "";
}
