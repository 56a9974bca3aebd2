/**
 * Every shape that crosses the wire of the chat, once: HTTP bodies, WebSocket params and notifications, RPC inputs. The same
 * schemas validate and generate the OpenAPI document. Unknown fields are refused. Limits are named and measured in the
 * unit they say: bytes are UTF-8 bytes.
 */

import * as v from "valibot";
import { ID_PATTERN, USER_ID_PATTERN } from "../id.ts";

/** design.md §10, protocol.md. */
export const LIMITS = {
  frameBytes: 64 * 1024,
  textBytes: 16_384,
  titleBytes: 256,
  membersPerRequest: 100,
  membersPerGroup: 10_000,
  membersShown: 1_000,
  mentions: 50,
  historyLimit: 200,
  historyDefault: 50,
  listLimit: 100,
  cursors: 200,
  batchFrames: 64,
  requestsInFlight: 128,
  deviceBytes: 64,
} as const;

/** The largest integer that JSON, JavaScript and a stream id carry alike. */
const INTEGER_MAX = Number.MAX_SAFE_INTEGER;

/** UTF-8 length without encoding: each UTF-16 unit is 1, 2 or 3 bytes, a surrogate pair 4. */
export function utf8Bytes(text: string): number {
  let bytes = text.length;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x80) continue;
    if (unit < 0x800) bytes += 1;
    else if (unit >= 0xd800 && unit <= 0xdbff) {
      bytes += 2;
      i++;
    } else bytes += 2;
  }
  return bytes;
}

const bytes = (min: number, max: number) =>
  v.pipe(
    v.string("must be a string"),
    v.check((text) => {
      const length = utf8Bytes(text);
      return length >= min && length <= max;
    }, `must be ${min} to ${max} bytes of UTF-8`),
    v.check((text) => text.isWellFormed(), "must be well-formed Unicode (no lone surrogate)"),
  );

const integer = (min: number, max: number) =>
  v.pipe(
    v.number(`must be a whole number from ${min} to ${max}`),
    v.integer(`must be a whole number from ${min} to ${max}`),
    v.minValue(min, `must be at least ${min}`),
    v.maxValue(max, `must be at most ${max}`),
  );

export const UserIdSchema = v.pipe(
  v.string("must be a string"),
  v.regex(USER_ID_PATTERN, "must be 1..128 of [A-Za-z0-9_.@|+=-]"),
);
export const IdSchema = v.pipe(v.string("must be a string"), v.regex(ID_PATTERN, "must be 1..64 of [A-Za-z0-9_.-]"));
export const SeqSchema = integer(1, INTEGER_MAX);
/** A position before the first entry is 0. */
export const PositionSchema = integer(0, INTEGER_MAX);
export const TimeSchema = integer(0, 8_640_000_000_000_000);
export const TitleSchema = bytes(0, LIMITS.titleBytes);
export const ConversationTypeSchema = v.picklist(
  ["direct", "group", "channel"],
  'must be "direct", "group" or "channel"',
);
export const RoleSchema = v.picklist(["owner", "admin", "member"], 'must be "owner", "admin" or "member"');
export type ConversationType = v.InferOutput<typeof ConversationTypeSchema>;
export type Role = v.InferOutput<typeof RoleSchema>;

export const TextBodySchema = v.strictObject({ text: bytes(1, LIMITS.textBytes) });

// Messages and entries

export const MessageSchema = v.strictObject({
  id: IdSchema,
  conversation: IdSchema,
  seq: SeqSchema,
  from: UserIdSchema,
  type: v.literal("text"),
  body: TextBodySchema,
  sentAt: TimeSchema,
  replyTo: v.optional(SeqSchema),
  mentions: v.optional(v.array(UserIdSchema)),
});
export type Message = v.InferOutput<typeof MessageSchema>;

export const MemberEntrySchema = v.strictObject({
  kind: v.literal("member"),
  seq: SeqSchema,
  id: IdSchema,
  by: UserIdSchema,
  at: TimeSchema,
  action: v.picklist(["added", "removed", "left", "updated"]),
  users: v.array(UserIdSchema),
  role: v.optional(RoleSchema),
  mutedUntil: v.optional(TimeSchema),
});
export type MemberEntry = v.InferOutput<typeof MemberEntrySchema>;

export const SettingsEntrySchema = v.strictObject({
  kind: v.literal("settings"),
  seq: SeqSchema,
  id: IdSchema,
  by: UserIdSchema,
  at: TimeSchema,
  title: v.optional(v.string()),
  dissolved: v.optional(v.boolean()),
});
export type SettingsEntry = v.InferOutput<typeof SettingsEntrySchema>;

export const MessageEntrySchema = v.strictObject({
  kind: v.literal("message"),
  seq: SeqSchema,
  id: IdSchema,
  message: MessageSchema,
});
export const EntrySchema = v.variant("kind", [MessageEntrySchema, MemberEntrySchema, SettingsEntrySchema]);
export type Entry = v.InferOutput<typeof EntrySchema>;

// Conversations

export const ConversationSchema = v.strictObject({
  id: IdSchema,
  type: ConversationTypeSchema,
  title: v.string(),
  epoch: v.string(),
  head: PositionSchema,
  created: TimeSchema,
  memberCount: PositionSchema,
  /** At most LIMITS.membersShown of them, owners and admins first. */
  members: v.array(v.strictObject({ user: UserIdSchema, role: RoleSchema, mutedUntil: v.optional(TimeSchema) })),
});
export type Conversation = v.InferOutput<typeof ConversationSchema>;

export const ConversationSummarySchema = v.strictObject({
  id: IdSchema,
  type: ConversationTypeSchema,
  title: v.string(),
  epoch: v.string(),
  head: PositionSchema,
  read: PositionSchema,
  unread: PositionSchema,
  lastMessage: v.optional(MessageSchema),
});
export type ConversationSummary = v.InferOutput<typeof ConversationSummarySchema>;

// Requests: what the user gives. `Params` = as on the WebSocket; HTTP takes some fields from the path.

const unique = (users: string[]) => new Set(users).size === users.length;
const Users = (max: number) =>
  v.pipe(
    v.array(UserIdSchema, "must be a list of user ids"),
    v.maxLength(max, `must be at most ${max} users`),
    v.check(unique, "must not name a user twice"),
  );

export const CreateConversationParams = v.strictObject({
  id: v.optional(IdSchema),
  type: ConversationTypeSchema,
  members: Users(LIMITS.membersPerRequest),
  title: v.optional(TitleSchema),
});

export const ListConversationsParams = v.strictObject({
  limit: v.optional(integer(1, LIMITS.listLimit), 50),
  /** `next` of the previous page. */
  before: v.optional(
    v.pipe(v.string(), v.regex(/^\d{1,16}(:[A-Za-z0-9_.-]{1,64})?$/, "must be the next of a previous page")),
  ),
});

export const ConversationParams = v.strictObject({ conversation: IdSchema });
export const UpdateConversationParams = v.strictObject({ conversation: IdSchema, title: TitleSchema });
export const AddMembersParams = v.strictObject({
  conversation: IdSchema,
  users: v.pipe(Users(LIMITS.membersPerRequest), v.minLength(1, "must name at least 1 user")),
});
export const MemberParams = v.strictObject({ conversation: IdSchema, user: UserIdSchema });
export const UpdateMemberParams = v.strictObject({
  conversation: IdSchema,
  user: UserIdSchema,
  role: v.optional(RoleSchema),
  mutedUntil: v.optional(TimeSchema),
});

export const SendParams = v.strictObject({
  conversation: IdSchema,
  clientId: IdSchema,
  type: v.optional(v.literal("text", 'must be "text"'), "text"),
  body: TextBodySchema,
  replyTo: v.optional(SeqSchema),
  mentions: v.optional(Users(LIMITS.mentions)),
});

export const HistoryParams = v.strictObject({
  conversation: IdSchema,
  after: v.optional(PositionSchema),
  before: v.optional(SeqSchema),
  limit: v.optional(integer(1, LIMITS.historyLimit), LIMITS.historyDefault),
});

export const CursorSchema = v.strictObject({
  conversation: IdSchema,
  epoch: v.pipe(v.string("must be a string"), v.maxLength(64, "must be at most 64 characters")),
  seq: PositionSchema,
  id: v.optional(IdSchema),
});
export type Cursor = v.InferOutput<typeof CursorSchema>;

export const SyncParams = v.strictObject({
  cursors: v.optional(
    v.pipe(v.array(CursorSchema), v.maxLength(LIMITS.cursors, `must be at most ${LIMITS.cursors} cursors`)),
  ),
});

export const ReadParams = v.strictObject({ conversation: IdSchema, seq: SeqSchema });

// Replies

export const SendReply = v.strictObject({
  id: IdSchema,
  conversation: IdSchema,
  seq: SeqSchema,
  sentAt: TimeSchema,
  duplicate: v.optional(v.literal(true)),
});
export type SendReply = v.InferOutput<typeof SendReply>;

export const HistoryReply = v.strictObject({
  epoch: v.string(),
  head: PositionSchema,
  messages: v.array(MessageSchema),
  more: v.boolean(),
});
export type HistoryReply = v.InferOutput<typeof HistoryReply>;

export const VerdictSchema = v.picklist(["resumed", "gap", "reset"]);
export const SyncReply = v.strictObject({
  conversations: v.array(
    v.strictObject({
      conversation: IdSchema,
      verdict: VerdictSchema,
      epoch: v.string(),
      head: PositionSchema,
      read: PositionSchema,
      unread: PositionSchema,
      entries: v.array(EntrySchema),
      more: v.boolean(),
    }),
  ),
});
export type SyncReply = v.InferOutput<typeof SyncReply>;

export const ReadReply = v.strictObject({ read: PositionSchema, unread: PositionSchema });
export type ReadReply = v.InferOutput<typeof ReadReply>;

export const ListConversationsReply = v.strictObject({
  conversations: v.array(ConversationSummarySchema),
  next: v.optional(v.string()),
});
export type ListConversationsReply = v.InferOutput<typeof ListConversationsReply>;

export const ConversationReply = v.strictObject({ conversation: ConversationSchema });
export type ConversationReply = v.InferOutput<typeof ConversationReply>;
