/**
 * Conversations and their members: create, look, change. Permissions are decided inside the scripts, in the same commit
 * as the change. Outsiders learn nothing: what they may not see and what does not exist give the same NOT_MEMBER.
 */

import type { Clock } from "../clock.ts";
import { AppError, type ErrorCode } from "../errors.ts";
import { directConversationId, newId } from "../id.ts";
import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import createLua from "../redis/lua/im-create.lua" with { type: "text" };
import entry from "../redis/lua/im-entry.lua" with { type: "text" };
import membersLua from "../redis/lua/im-members.lua" with { type: "text" };
import settingsLua from "../redis/lua/im-settings.lua" with { type: "text" };
import stateLua from "../redis/lua/im-state.lua" with { type: "text" };
import summaryLua from "../redis/lua/im-summary.lua" with { type: "text" };
import append from "../redis/lua/mq-append.lua" with { type: "text" };
import type { Channels } from "./channels.ts";
import { foldedMessage } from "./fold.ts";
import type { Inbox } from "./inbox.ts";
import { type Action, ROLE_LETTERS, rightsOf } from "./permissions.ts";
import { type Conversation, type ConversationType, type Join, LIMITS, type Message, type Role } from "./protocol.ts";
import type { Room } from "./room.ts";

const createConversation = defineScript({
  name: "imCreate",
  lua: [append, stateLua, createLua],
  keys: ["conv", "members", "events", "silenced", "eventGroups"],
  args: ["id", "conversationType", "title", "epoch", "digest", "creator", "eventId", "join", "eventsMax"],
  hasRest: true,
  decode: (reply) => reply as "created" | "same" | "other" | "EVENTS_FULL",
});

const changeMembers = defineScript({
  name: "imMembers",
  lua: [append, stateLua, entry, membersLua],
  keys: ["conv", "members", "log", "events", "eventGroups"],
  args: [
    "id",
    "by",
    "action",
    "eventId",
    "role",
    "mutedUntil",
    "groupMax",
    "channelMax",
    "staffMax",
    "rights",
    "muteRights",
    "eventsMax",
  ],
  hasRest: true,
  decode: (reply) => reply as string | [seq: number, type: ConversationType],
});

const changeSettings = defineScript({
  name: "imSettings",
  lua: [append, stateLua, entry, settingsLua],
  keys: ["conv", "members", "log", "events", "eventGroups"],
  args: ["id", "by", "eventId", "action", "title", "join", "rights", "eventsMax"],
  decode: (reply) => reply as string | number,
});

const summarise = defineScript({
  name: "imSummary",
  lua: summaryLua,
  keys: ["conv", "members", "log", "folds"],
  args: ["user"],
  decode: (reply) => (Array.isArray(reply) ? toState(reply as string[]) : undefined),
});

const REFUSALS: Record<string, readonly [ErrorCode, string?]> = {
  NOT_MEMBER: ["NOT_MEMBER"],
  NOT_FOUND: ["NOT_FOUND", "There is no such member"],
  FORBIDDEN: ["FORBIDDEN"],
  DISSOLVED: ["FORBIDDEN", "The conversation is dissolved"],
  DIRECT: ["FORBIDDEN", "A direct conversation keeps its two members and has no title"],
  LAST_OWNER: ["FORBIDDEN", "The owner cannot leave while others are members"],
  FULL: [
    "INVALID",
    `users: a group has at most ${LIMITS.membersPerGroup} members, a channel ${LIMITS.membersPerChannel}`,
  ],
  STAFF_FULL: ["INVALID", `role: a channel has at most ${LIMITS.staffPerChannel} owners and admins`],
};

const ROLES: Record<string, Role> = { o: "owner", a: "admin", m: "member" };
const ROLE_ORDER = { owner: 0, admin: 1, member: 2 };

/** In the place of a mute's end (im-entry.lua): blocked by the other side. */
const BLOCKED = Number.MAX_SAFE_INTEGER;

/** What a change of members is by the permission table. */
const MEMBER_RIGHTS = {
  added: "invite",
  removed: "kick",
  left: "leave",
  updated: "giveRole",
} as const satisfies Record<string, Action>;

/** A conversation as one member sees it. */
export interface ConversationState {
  readonly type: ConversationType;
  readonly title: string;
  readonly join: Join;
  readonly epoch: string;
  readonly head: number;
  readonly messages: number;
  readonly created: number;
  readonly size: number;
  readonly activeMs: number;
  readonly read: number;
  readonly unread: number;
  /** As it is now, when it is in the hot window. */
  readonly lastMessage: Message | undefined;
}

export interface Conversations {
  /** Creates once per id (direct: per pair). CONFLICT when the id holds other content; `created` false when it holds the same. */
  create(by: string, params: CreateParams): Promise<{ conversation: Conversation; created: boolean }>;
  /** As create, for who wants to know its id and no more. The members' lists show it a moment later. */
  begin(by: string, params: CreateParams): Promise<string>;
  get(by: string, conversation: string): Promise<Conversation>;
  change(by: string, conversation: string, settings: Settings): Promise<Conversation>;
  dissolve(by: string, conversation: string): Promise<void>;
  /** Oneself alone: joining, where that is open. */
  add(by: string, conversation: string, users: readonly string[]): Promise<Conversation>;
  /** Removing oneself is leaving. Removing who is no member does nothing. */
  remove(by: string, conversation: string, user: string): Promise<void>;
  update(by: string, conversation: string, user: string, change: MemberChange): Promise<Conversation>;
  /** The state as `user` sees it, or undefined when not a member. */
  state(user: string, conversation: string): Promise<ConversationState | undefined>;
}

export interface Settings {
  readonly title?: string | undefined;
  readonly join?: Join | undefined;
}

export interface MemberChange {
  /** Owner: the conversation is given away, and who gives it becomes an admin. */
  readonly role?: Role | undefined;
  readonly mutedUntil?: number | undefined;
}

export interface CreateParams {
  readonly id?: string | undefined;
  readonly type: ConversationType;
  readonly members: readonly string[];
  readonly title?: string | undefined;
  readonly join?: Join | undefined;
}

export interface ConversationParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly inbox: Inbox;
  readonly channels: Channels;
  readonly room: Room;
  readonly isErased?: ((user: string) => Promise<boolean>) | undefined;
}

/** The state of a conversation as `user` sees it, or undefined when not a member. */
export function conversationState(
  redis: RedisClient,
  keys: Keys,
  user: string,
  conversation: string,
): Promise<ConversationState | undefined> {
  return summarise(redis, {
    conv: keys.conversation(conversation),
    members: keys.members(conversation),
    log: keys.log(conversation),
    folds: keys.folds(conversation),
    user,
  });
}

export function createConversations(parts: ConversationParts): Conversations {
  const { redis, keys, clock, inbox, channels, room, isErased = async () => false } = parts;
  const keysOf = (conversation: string) => ({
    conv: keys.conversation(conversation),
    members: keys.members(conversation),
    log: keys.log(conversation),
  });

  async function get(by: string, conversation: string): Promise<Conversation> {
    const state = await read(by, conversation);
    if (!state) throw new AppError("NOT_MEMBER");
    const shown = state.type === "channel" ? staffOf(conversation, by) : redis.hgetall(keys.members(conversation));
    const { "#": _place, ...byUser } = await shown;
    const members = Object.entries(byUser).map(([user, value]) => toMember(user, value, clock.now()));
    members.sort((a, b) => ROLE_ORDER[a.role] - ROLE_ORDER[b.role] || (a.user < b.user ? -1 : 1));
    const { type, title, epoch, head, created, size, join } = state;
    return {
      id: conversation,
      type,
      title,
      epoch,
      head,
      created,
      memberCount: size,
      ...(join === "open" ? { join } : {}),
      members: members.slice(0, LIMITS.membersShown),
    };
  }

  /** Of a channel's members its owner and admins, and who asks. */
  async function staffOf(conversation: string, by: string): Promise<Record<string, string>> {
    const staff = (await redis.hget(keys.conversation(conversation), "staff")) ?? "";
    const users = [...new Set([...staff.split(" ").filter(Boolean), by])];
    const values = await redis.hmget(keys.members(conversation), ...users);
    return Object.fromEntries(users.flatMap((user, i) => (values[i] ? [[user, values[i]]] : [])));
  }

  const read = (user: string, conversation: string) => conversationState(redis, keys, user, conversation);

  async function changeMembersOf(
    by: string,
    conversation: string,
    action: keyof typeof MEMBER_RIGHTS,
    users: readonly string[],
    { role, mutedUntil }: MemberChange = {},
  ): Promise<{ seq: number; type: ConversationType }> {
    const change = {
      ...keysOf(conversation),
      ...room.of(conversation),
      id: conversation,
      by,
      action,
      eventId: newId(clock.now()),
      role: role === undefined ? "" : ROLE_LETTERS[role],
      mutedUntil: mutedUntil ?? "",
      groupMax: LIMITS.membersPerGroup,
      channelMax: LIMITS.membersPerChannel,
      staffMax: LIMITS.staffPerChannel,
      rights: rightsOf(role === "owner" ? "transfer" : MEMBER_RIGHTS[action]),
      muteRights: rightsOf("muteMember"),
      restArgs: users,
    };
    const result = await room.run(conversation, () => changeMembers(redis, change));
    if (typeof result === "string") refuse(result);
    const [seq, type] = result;
    return { seq, type };
  }

  /** The groups delivery and inbox do the same; doing it here as well lets the caller read its own write. */
  async function list(users: readonly string[], conversation: string, type: ConversationType, seq: number) {
    if (type === "channel") await channels.note(users, conversation, seq, true);
    else await inbox.touch(users, conversation, clock.now());
  }

  /** Throws INVALID for users who were erased: nothing of them is to begin anew. */
  async function refuseErased(path: string, users: readonly string[]): Promise<void> {
    const found = await Promise.all(users.map(isErased));
    if (found.includes(true)) throw invalid(path, `names a user who was erased: ${users[found.indexOf(true)]}`);
  }

  async function changeSettingsOf(
    by: string,
    conversation: string,
    action: "change" | "dissolve",
    { title, join }: Settings,
  ): Promise<void> {
    const change = {
      ...keysOf(conversation),
      ...room.of(conversation),
      id: conversation,
      by,
      eventId: newId(clock.now()),
      action,
      title: title === undefined ? "" : JSON.stringify(title),
      join: join ?? "",
      rights: rightsOf(action === "dissolve" ? "dissolve" : "changeSettings"),
    };
    const result = await room.run(conversation, () => changeSettings(redis, change));
    if (typeof result === "string") refuse(result);
  }

  async function begin(by: string, { id, type, members, title = "", join = "invited" }: CreateParams) {
    const others = members.filter((user) => user !== by);
    if (type === "direct") {
      if (others.length !== 1) throw invalid("members", "a direct conversation has exactly one other member");
      if (title !== "") throw invalid("title", "a direct conversation has no title");
      if (join !== "invited") throw invalid("join", "nobody joins a direct conversation");
      if (id !== undefined) throw invalid("id", "a direct conversation has the id of its pair");
    }
    await refuseErased("members", [by, ...others]);
    const conversation = type === "direct" ? await directConversationId(by, others[0]!) : (id ?? newId(clock.now()));
    // A direct conversation is the same whoever of the two asks.
    const open = join === "open" ? [join] : [];
    const content = type === "direct" ? [type] : [type, title, by, ...[...others].sort(), ...open];
    const { conv, members: membersKey } = keysOf(conversation);
    const creation = {
      conv,
      members: membersKey,
      ...room.of(conversation),
      silenced: keys.silenced(conversation),
      id: conversation,
      conversationType: type,
      title: JSON.stringify(title),
      epoch: newId(clock.now()),
      digest: await digest(content),
      creator: by,
      eventId: newId(clock.now()),
      join,
      restArgs: others,
    };
    const result = await room.run(conversation, () => createConversation(redis, creation));
    if (result === "other") throw new AppError("CONFLICT", "id is taken by a conversation with other content");
    return { conversation, created: result === "created", users: [by, ...others] };
  }

  return {
    get,
    state: read,
    async create(by, params) {
      const { conversation, created, users } = await begin(by, params);
      await list(users, conversation, params.type, 0);
      return { conversation: await get(by, conversation), created };
    },
    begin: async (by, params) => (await begin(by, params)).conversation,
    async change(by, conversation, settings) {
      if (settings.title === undefined && settings.join === undefined) throw invalid("title", "give title or join");
      await changeSettingsOf(by, conversation, "change", settings);
      return get(by, conversation);
    },
    dissolve: (by, conversation) => changeSettingsOf(by, conversation, "dissolve", {}),
    async add(by, conversation, users) {
      await refuseErased("users", users);
      const { seq, type } = await changeMembersOf(by, conversation, "added", users);
      if (seq > 0) await list(users, conversation, type, seq);
      return get(by, conversation);
    },
    async remove(by, conversation, user) {
      const { seq, type } = await changeMembersOf(by, conversation, user === by ? "left" : "removed", [user]);
      if (type !== "channel") await inbox.drop([user], conversation);
      else if (seq > 0) await channels.note([user], conversation, seq, false);
    },
    async update(by, conversation, user, { role, mutedUntil }) {
      if (role === undefined && mutedUntil === undefined) throw invalid("", "give role or mutedUntil");
      await changeMembersOf(by, conversation, "updated", [user], { role, mutedUntil });
      return get(by, conversation);
    },
  };
}

function refuse(code: string): never {
  const [error, detail] = REFUSALS[code] ?? (["INTERNAL"] as const);
  throw new AppError(error, detail);
}

function invalid(path: string, message: string): AppError {
  return new AppError("INVALID", path === "" ? message : `${path}: ${message}`, { issues: [{ path, message }] });
}

/** 96 bits of SHA-256, base64: tells content under a taken id from the same content. */
export async function digest(content: readonly string[]): Promise<string> {
  const bytes = new TextEncoder().encode(JSON.stringify(content));
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).subarray(0, 12).toBase64();
}

function toMember(user: string, value: string, nowMs: number) {
  const [role, , mutedUntil] = value.split(" ");
  const muted = Number(mutedUntil);
  // Whom a user blocks is the user's own business.
  const isShown = muted > nowMs && muted !== BLOCKED;
  return { user, role: ROLES[role!]!, ...(isShown ? { mutedUntil: muted } : {}) };
}

function toState(values: readonly string[]): ConversationState {
  const [place, type, title, size, created, member, join, lastMessage, content, reactions] = values;
  const [head, messages, activeMs, , epoch] = place!.split(" ");
  const [, , , read, ordinal] = member!.split(" ");
  return {
    type: type as ConversationType,
    title: JSON.parse(title!),
    join: join as Join,
    epoch: epoch!,
    head: Number(head),
    messages: Number(messages),
    created: Number(created),
    size: Number(size),
    activeMs: Number(activeMs),
    read: Number(read),
    unread: Number(messages) - Number(ordinal),
    lastMessage: lastMessage ? foldedMessage(lastMessage, { content, reactions }) : undefined,
  };
}
