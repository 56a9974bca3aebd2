/**
 * What users ask and what they are answered: HTTP bodies, WebSocket params, RPC inputs, all of the same schemas. `Params` =
 * as on the WebSocket; HTTP takes some fields from the path.
 */

import * as v from "valibot";
import {
  BodySchema,
  ConversationSchema,
  ConversationSummarySchema,
  ConversationTypeSchema,
  EmojiSchema,
  EntrySchema,
  IdSchema,
  integer,
  JoinSchema,
  LIMITS,
  MessageSchema,
  PositionSchema,
  RoleSchema,
  SeqSchema,
  TextBodySchema,
  TimeSchema,
  TitleSchema,
  UserIdSchema,
} from "./protocol.ts";

import { PUSH_KINDS } from "./push-requests.ts";

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
  join: v.optional(JoinSchema),
});

export const ListConversationsParams = v.strictObject({
  limit: v.optional(integer(1, LIMITS.listLimit), 50),
  /** `next` of the previous page. */
  before: v.optional(
    v.pipe(v.string(), v.regex(/^\d{1,16}(:[A-Za-z0-9_.-]{1,64})?$/, "must be the next of a previous page")),
  ),
});

export const ConversationParams = v.strictObject({ conversation: IdSchema });
export const UpdateConversationParams = v.strictObject({
  conversation: IdSchema,
  title: v.optional(TitleSchema),
  join: v.optional(JoinSchema),
});
/** 0, or any time that has passed, ends it. */
export const MuteConversationParams = v.strictObject({ conversation: IdSchema, until: TimeSchema });
export const BlockParams = v.strictObject({ user: UserIdSchema });
export const DeviceParams = v.strictObject({ device: IdSchema });
export const TypingParams = v.strictObject({ conversation: IdSchema, on: v.boolean("must be true or false") });
export const PresenceParams = v.strictObject({
  users: v.pipe(Users(LIMITS.membersPerRequest), v.minLength(1, "must name at least 1 user")),
});
export const NoParams = v.strictObject({});
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

const SendFields = {
  conversation: IdSchema,
  clientId: IdSchema,
  replyTo: v.optional(SeqSchema),
  mentions: v.optional(Users(LIMITS.mentions)),
  /** It is sent then (scheduled.ts); the past is now. */
  deliverAt: v.optional(TimeSchema),
  /** Of a scheduled one: not sent any more after it. */
  expireAt: v.optional(TimeSchema),
};
const SendText = v.strictObject({
  ...SendFields,
  type: v.optional(v.literal("text"), "text"),
  body: TextBodySchema,
});
const SendOther = v.strictObject({ ...SendFields, type: IdSchema, body: BodySchema });

/** Of type "text", unless `type` says otherwise: then the body may be any object. The entries describe both. */
export const SendParams = Object.assign(
  v.lazy((input): typeof SendText | typeof SendOther => (isOfText(input) ? SendText : SendOther)),
  {
    entries: {
      ...SendFields,
      type: v.optional(IdSchema, "text"),
      body: v.looseObject(v.partial(TextBodySchema).entries),
    },
  },
);

function isOfText(input: unknown): boolean {
  const type = (input as { type?: unknown } | null | undefined)?.type;
  return type === undefined || type === "text";
}

const MessageFields = { conversation: IdSchema, seq: SeqSchema };

/** Of a message of type "text" the new body must be a text too. */
export const EditParams = v.strictObject({ ...MessageFields, body: BodySchema });

/** For everybody, or (`for: "me"`) only out of the caller's own sight. */
export const RecallParams = v.strictObject({
  ...MessageFields,
  for: v.optional(v.picklist(["everyone", "me"], 'must be "everyone" or "me"'), "everyone"),
});

export const ReactParams = v.strictObject({
  ...MessageFields,
  emoji: EmojiSchema,
  on: v.optional(v.boolean("must be true or false"), true),
});
/** On HTTP the verb says whether it comes or goes. */
export const ReactionParams = v.strictObject({ ...MessageFields, emoji: EmojiSchema });

export const HistoryParams = v.strictObject({
  conversation: IdSchema,
  after: v.optional(PositionSchema),
  before: v.optional(SeqSchema),
  limit: v.optional(integer(1, LIMITS.historyLimit), LIMITS.historyDefault),
});

export const SearchParams = v.strictObject({
  q: v.pipe(
    v.string("must be a string"),
    v.maxLength(LIMITS.searchCharacters, `must be at most ${LIMITS.searchCharacters} characters`),
    v.check((text) => text.isWellFormed(), "must be well-formed Unicode (no lone surrogate)"),
  ),
  /** Left out: the caller's 500 most recently active ones. */
  conversation: v.optional(IdSchema),
  /** `next` of the previous page. */
  before: v.optional(
    v.pipe(
      v.string("must be a string"),
      v.regex(/^\d{1,15}:[A-Za-z0-9_.-]{1,64}:\d{1,15}$/, "must be the next of a previous page"),
    ),
  ),
  limit: v.optional(integer(1, LIMITS.searchLimit), LIMITS.searchDefault),
});
export type SearchParams = v.InferOutput<typeof SearchParams>;

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
export const DeliveredParams = v.strictObject({ conversation: IdSchema, seq: SeqSchema });

// Replies

const Counts = v.strictObject({
  /** That he was a member of, and left. */
  conversations: PositionSchema,
  /** Of hot windows, and what had been folded about messages there. */
  entries: PositionSchema,
  parts: PositionSchema,
  /** Keys of his own, and places in those of others. */
  keys: PositionSchema,
  /** Messages of the queue: in topics, dead letters, delayed. */
  queued: PositionSchema,
  /** Rows of the archive. */
  archived: PositionSchema,
});
/** How far the erasure of a user is: what was removed or rewritten, and what has to wait for what. */
export const ErasureReply = v.strictObject({
  state: v.picklist(["running", "done"]),
  created: TimeSchema,
  ended: v.optional(TimeSchema),
  passes: PositionSchema,
  erased: Counts,
  waiting: v.array(v.strictObject({ on: v.string(), count: PositionSchema })),
});

/** The message as it is now. */
export const MessageReply = v.strictObject({ message: MessageSchema });
export type MessageReply = v.InferOutput<typeof MessageReply>;

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

/** Newest first. There may be more even where a page is short of hits, or empty: as long as there is a `next`. */
export const SearchReply = v.strictObject({
  hits: v.array(v.strictObject({ conversation: IdSchema, message: MessageSchema })),
  next: v.optional(v.string()),
});
export type SearchReply = v.InferOutput<typeof SearchReply>;

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
      /** Messages among the entries that the user has deleted for himself; left out when there are none. */
      hidden: v.optional(v.array(SeqSchema)),
    }),
  ),
});
export type SyncReply = v.InferOutput<typeof SyncReply>;

export const ReadReply = v.strictObject({ read: PositionSchema, unread: PositionSchema });
export type ReadReply = v.InferOutput<typeof ReadReply>;

export const DeliveredReply = v.strictObject({ delivered: PositionSchema });
export type DeliveredReply = v.InferOutput<typeof DeliveredReply>;

/** How far each member has come: what has reached a device of his, and what he has read. */
export const ReceiptsReply = v.strictObject({
  receipts: v.array(v.strictObject({ user: UserIdSchema, delivered: PositionSchema, read: PositionSchema })),
});
export type ReceiptsReply = v.InferOutput<typeof ReceiptsReply>;

export const PresenceStateSchema = v.strictObject({
  user: UserIdSchema,
  online: v.boolean(),
  /** Left out when the user was never seen. */
  lastSeen: v.optional(TimeSchema),
});
export type PresenceState = v.InferOutput<typeof PresenceStateSchema>;
export const PresenceReply = v.strictObject({ presence: v.array(PresenceStateSchema) });

export const DeviceSchema = v.strictObject({
  id: IdSchema,
  online: v.boolean(),
  connections: PositionSchema,
  /** Of an online one: since when. */
  connectedAt: v.optional(TimeSchema),
  /** Of an offline one, unless it was never connected. */
  lastSeen: v.optional(TimeSchema),
  /** How it is woken when it has push. */
  push: v.optional(v.picklist(PUSH_KINDS)),
});
export type Device = v.InferOutput<typeof DeviceSchema>;
export const ListDevicesReply = v.strictObject({ devices: v.array(DeviceSchema) });

export const ListConversationsReply = v.strictObject({
  conversations: v.array(ConversationSummarySchema),
  next: v.optional(v.string()),
});
export type ListConversationsReply = v.InferOutput<typeof ListConversationsReply>;

export const MuteConversationReply = v.strictObject({ mutedUntil: v.optional(TimeSchema) });

export const BlockReply = v.strictObject({ user: UserIdSchema, since: TimeSchema });
export const ListBlocksReply = v.strictObject({ blocks: v.array(BlockReply) });

export const ConversationReply = v.strictObject({ conversation: ConversationSchema });
export type ConversationReply = v.InferOutput<typeof ConversationReply>;
