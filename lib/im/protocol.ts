/**
 * What the chat is made of, as it crosses the wire: ids, messages, entries, conversations, and the limits. What users ask and
 * what they are answered is in requests.ts. The same schemas validate and generate the OpenAPI document. Unknown fields are
 * refused. Limits are named and measured in the unit they say: bytes are UTF-8 bytes.
 */

import * as v from "valibot";
import { ID_PATTERN, USER_ID_PATTERN } from "../id.ts";

/** design.md §10, protocol.md. */
export const LIMITS = {
  frameBytes: 64 * 1024,
  textBytes: 16_384,
  /** Of a body that is no text, as JSON. */
  bodyBytes: 16_384,
  /** One less than what HTTP bodies may be nested in all, and some air. */
  bodyDepth: 30,
  titleBytes: 256,
  membersPerRequest: 100,
  membersPerGroup: 10_000,
  membersPerChannel: 1_000_000,
  /** Owner and admins. */
  staffPerChannel: 100,
  membersShown: 1_000,
  mentions: 50,
  /** Up to so many members everybody is told how far the others are and who is typing: each of them times each of them. */
  receiptMembers: 100,
  /** Users whose presence one connection hears of. */
  presenceUsers: 500,
  emojiBytes: 64,
  /** Kinds of reaction on one message, and of one user on one message: what people still read at a glance. */
  reactionKinds: 20,
  reactionsPerUser: 5,
  /** Users named with a kind of reaction; the count says how many there are. */
  reactionUsers: 10,
  historyLimit: 200,
  historyDefault: 50,
  searchLimit: 50,
  searchDefault: 20,
  searchCharacters: 256,
  listLimit: 100,
  cursors: 200,
  batchFrames: 64,
  requestsInFlight: 128,
  deviceBytes: 64,
  reminderBytes: 1_024,
  /** Of one user that wait. A scheduled message may be of 16 KB. */
  reminders: 1_000,
  scheduled: 100,
  agendaDefault: 50,
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

export const integer = (min: number, max: number) =>
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
export const ReminderTextSchema = bytes(1, LIMITS.reminderBytes);
export const TitleSchema = bytes(0, LIMITS.titleBytes);
export const ConversationTypeSchema = v.picklist(
  ["direct", "group", "channel"],
  'must be "direct", "group" or "channel"',
);
export const RoleSchema = v.picklist(["owner", "admin", "member"], 'must be "owner", "admin" or "member"');
/** Whether anybody may take himself in who knows the id, or members must do it. */
export const JoinSchema = v.picklist(["open", "invited"], 'must be "open" or "invited"');
export type Join = v.InferOutput<typeof JoinSchema>;
export type ConversationType = v.InferOutput<typeof ConversationTypeSchema>;
export type Role = v.InferOutput<typeof RoleSchema>;

// Messages and entries

export const TextBodySchema = v.strictObject({ text: bytes(1, LIMITS.textBytes) });

/** A message's body: `{text}` of type "text", of another type whatever its senders agreed on, and of a recalled one nothing. */
export type Body = Readonly<Record<string, unknown>> & { readonly text?: string };

/** Never copied or looked into: a copy would drop keys like "constructor", which are an app's own business. */
export const AnyBodySchema = v.custom<Body>(isObject, "must be an object");

export function isTextBody(body: unknown): boolean {
  return isObject(body) && v.is(TextBodySchema, body);
}

/** A body of any type as users give it. */
export const BodySchema = v.pipe(
  AnyBodySchema,
  v.check((body) => isShallow(body, LIMITS.bodyDepth), `must not be nested deeper than ${LIMITS.bodyDepth}`),
  // Depth first: a text that is nested without end must not reach the serialiser.
  v.check(
    (body) =>
      isObject(body) && isShallow(body, LIMITS.bodyDepth) && utf8Bytes(JSON.stringify(body)) <= LIMITS.bodyBytes,
    `must be at most ${LIMITS.bodyBytes} bytes of JSON`,
  ),
);

function isObject(value: unknown): boolean {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Whether it is nested at most `levels` deep; looks no deeper. */
function isShallow(value: unknown, levels: number): boolean {
  if (typeof value !== "object" || value === null) return true;
  return levels > 0 && Object.values(value).every((item) => isShallow(item, levels - 1));
}

/** A pictograph, a flag or a keycap, with all that may join and modify them; or a name. */
const EMOJI_PATTERN =
  /^(?:[A-Za-z0-9_+-]{1,32}|(?=.*(?:\p{Extended_Pictographic}|\p{Regional_Indicator}|\u20e3))[\p{Extended_Pictographic}\p{Emoji_Component}]+)$/u;

/** One emoji (a sequence with joiners and selectors is one), or the name of a custom one. Nothing in it needs escaping. */
export const EmojiSchema = v.pipe(
  bytes(1, LIMITS.emojiBytes),
  v.regex(EMOJI_PATTERN, "must be an emoji, or a name of 1..32 of [A-Za-z0-9_+-]"),
);

export const ReactionSchema = v.strictObject({
  emoji: EmojiSchema,
  count: SeqSchema,
  /** At most LIMITS.reactionUsers of them. */
  users: v.array(UserIdSchema),
});
export type Reaction = v.InferOutput<typeof ReactionSchema>;

/** A message as it is now. The fields stand in the order in which they are committed: what is checked comes out in this order. */
export const MessageSchema = v.strictObject({
  seq: SeqSchema,
  id: IdSchema,
  conversation: IdSchema,
  from: UserIdSchema,
  /** "text", or a name that the app gives its own. */
  type: IdSchema,
  body: AnyBodySchema,
  sentAt: TimeSchema,
  replyTo: v.optional(SeqSchema),
  mentions: v.optional(v.array(UserIdSchema)),
  editedAt: v.optional(TimeSchema),
  recalledAt: v.optional(TimeSchema),
  reactions: v.optional(v.array(ReactionSchema)),
});
export type Message = v.InferOutput<typeof MessageSchema>;

/** What people read of it; "" of a message of another type, and of a recalled one. */
export function textOf({ type, body }: Pick<Message, "type" | "body">): string {
  return type === "text" ? (body.text ?? "") : "";
}

/** Of every entry that is no message. */
const EntryFields = { seq: SeqSchema, id: IdSchema, by: UserIdSchema, at: TimeSchema };

/** `target` is the seq of the message. */
export const EditEntrySchema = v.strictObject({
  kind: v.literal("edit"),
  ...EntryFields,
  target: SeqSchema,
  body: AnyBodySchema,
});
export const RecallEntrySchema = v.strictObject({ kind: v.literal("recall"), ...EntryFields, target: SeqSchema });
/** `on` false: `by` took it back. */
export const ReactionEntrySchema = v.strictObject({
  kind: v.literal("reaction"),
  ...EntryFields,
  target: SeqSchema,
  emoji: EmojiSchema,
  on: v.boolean(),
});

export const MemberEntrySchema = v.strictObject({
  kind: v.literal("member"),
  ...EntryFields,
  action: v.picklist(["added", "removed", "left", "updated"]),
  users: v.array(UserIdSchema),
  role: v.optional(RoleSchema),
  mutedUntil: v.optional(TimeSchema),
});
export type MemberEntry = v.InferOutput<typeof MemberEntrySchema>;

export const SettingsEntrySchema = v.strictObject({
  kind: v.literal("settings"),
  ...EntryFields,
  title: v.optional(v.string()),
  join: v.optional(JoinSchema),
  dissolved: v.optional(v.boolean()),
});
export type SettingsEntry = v.InferOutput<typeof SettingsEntrySchema>;

export const MessageEntrySchema = v.strictObject({
  kind: v.literal("message"),
  seq: SeqSchema,
  id: IdSchema,
  message: MessageSchema,
});
export const EntrySchema = v.variant("kind", [
  MessageEntrySchema,
  EditEntrySchema,
  RecallEntrySchema,
  ReactionEntrySchema,
  MemberEntrySchema,
  SettingsEntrySchema,
]);
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
  /** Left out when members must take others in. */
  join: v.optional(v.literal("open")),
  /** At most LIMITS.membersShown of them, owners and admins first; of a channel these, and who asks. */
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
  /** The user wants no notice of it until then; left out when not muted. */
  mutedUntil: v.optional(TimeSchema),
  lastMessage: v.optional(MessageSchema),
});
export type ConversationSummary = v.InferOutput<typeof ConversationSummarySchema>;
