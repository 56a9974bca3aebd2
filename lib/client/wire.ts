/**
 * What travels between the client and a gateway: JSON-RPC 2.0 in text frames. Types only, taken from the schemas that the
 * server validates with; whoever copies this folder into an app copies these types with it.
 */

import type { InferInput, InferOutput } from "valibot";
import type { Body, Conversation, Entry, Message, Reaction } from "../im/protocol.ts";
import type {
  AddMembersParams,
  BlockParams,
  BlockReply,
  ConversationParams,
  ConversationReply,
  CreateConversationParams,
  Cursor,
  DeliveredParams,
  DeliveredReply,
  DeviceParams,
  EditParams,
  HistoryParams,
  HistoryReply,
  ListBlocksReply,
  ListConversationsParams,
  ListConversationsReply,
  ListDevicesReply,
  MemberParams,
  MessageReply,
  MuteConversationParams,
  MuteConversationReply,
  PresenceParams,
  PresenceReply,
  PresenceState,
  ReactParams,
  ReadParams,
  ReadReply,
  RecallParams,
  ReceiptsReply,
  SearchParams,
  SearchReply,
  SendParams,
  SendReply,
  SyncParams,
  SyncReply,
  TypingParams,
  UpdateConversationParams,
  UpdateMemberParams,
} from "../im/requests.ts";

export type {
  Body,
  Conversation,
  ConversationReply,
  Cursor,
  Entry,
  HistoryReply,
  ListConversationsReply,
  Message,
  MessageReply,
  PresenceState,
  Reaction,
  ReadReply,
  SearchReply,
  SendReply,
  SyncReply,
};

/** Every request of the chat: what it takes and what it answers. All may be sent twice: the server knows them by their ids. */
export interface Methods {
  "session.ping": [Record<string, never>, unknown];
  "message.send": [InferInput<typeof SendParams>, SendReply];
  "message.edit": [InferInput<typeof EditParams>, MessageReply];
  "message.recall": [InferInput<typeof RecallParams>, Partial<MessageReply>];
  "message.react": [InferInput<typeof ReactParams>, MessageReply];
  "message.history": [InferInput<typeof HistoryParams>, HistoryReply];
  search: [InferInput<typeof SearchParams>, SearchReply];
  sync: [InferInput<typeof SyncParams>, SyncReply];
  read: [InferInput<typeof ReadParams>, ReadReply];
  "conversation.create": [InferInput<typeof CreateConversationParams>, ConversationReply];
  "conversation.list": [InferInput<typeof ListConversationsParams>, ListConversationsReply];
  "conversation.get": [InferInput<typeof ConversationParams>, ConversationReply];
  "conversation.update": [InferInput<typeof UpdateConversationParams>, ConversationReply];
  "conversation.dissolve": [InferInput<typeof ConversationParams>, unknown];
  "conversation.mute": [InferInput<typeof MuteConversationParams>, InferOutput<typeof MuteConversationReply>];
  delivered: [InferInput<typeof DeliveredParams>, InferOutput<typeof DeliveredReply>];
  "conversation.receipts": [InferInput<typeof ConversationParams>, InferOutput<typeof ReceiptsReply>];
  typing: [InferInput<typeof TypingParams>, unknown];
  "presence.subscribe": [InferInput<typeof PresenceParams>, InferOutput<typeof PresenceReply>];
  "presence.unsubscribe": [InferInput<typeof PresenceParams>, unknown];
  "device.list": [Record<string, never>, InferOutput<typeof ListDevicesReply>];
  "device.remove": [InferInput<typeof DeviceParams>, unknown];
  "block.list": [Record<string, never>, InferOutput<typeof ListBlocksReply>];
  "block.add": [InferInput<typeof BlockParams>, InferOutput<typeof BlockReply>];
  "block.remove": [InferInput<typeof BlockParams>, unknown];
  "member.add": [InferInput<typeof AddMembersParams>, ConversationReply];
  "member.remove": [InferInput<typeof MemberParams>, unknown];
  "member.update": [InferInput<typeof UpdateMemberParams>, ConversationReply];
}
export type Method = keyof Methods;
export type SendInput = Methods["message.send"][0];

/** A conversation as notifications show it: without its member list. */
export type ConversationView = Omit<Conversation, "members">;

/** What the server tells unasked. */
export type Notification =
  | { method: "message"; params: { message: Message } }
  | { method: "message.edited" | "message.recalled" | "message.reaction" | "member"; params: EntryNotice }
  | { method: "message.hidden"; params: HiddenNotice }
  | { method: "conversation.muted"; params: MutedNotice }
  | { method: "read" | "delivered"; params: ReadNotice }
  | { method: "typing"; params: TypingNotice }
  | { method: "presence"; params: PresenceState }
  | { method: "conversation"; params: { conversation: ConversationView; seq?: number; entry?: Entry } }
  | { method: "session.resync"; params: { reason: string } }
  | { method: "session.closing"; params: ClosingNotice };

/** An entry of a timeline that is no message. */
export interface EntryNotice {
  readonly conversation: string;
  readonly seq: number;
  readonly entry: Entry;
}

/** The user deleted it for himself, on another device. */
export interface HiddenNotice {
  readonly conversation: string;
  readonly seq: number;
}

/** The user muted it on another device, or ended that (no time). */
export interface MutedNotice {
  readonly conversation: string;
  readonly mutedUntil?: number;
}

/** How far a member has come: what he has read, or what has reached a device of his. */
export interface ReadNotice {
  readonly conversation: string;
  readonly user: string;
  readonly seq: number;
}

export interface TypingNotice {
  readonly conversation: string;
  readonly user: string;
  readonly on: boolean;
}

export interface ClosingNotice {
  readonly reason: string;
  readonly reconnectInMs?: number;
}

/** The answer to session.open. */
export interface Session {
  readonly user: string;
  readonly connection: string;
  readonly ackLevel: string;
  readonly serverTime: number;
  readonly heartbeatMs: number;
  readonly limits: Readonly<Record<string, number>>;
}

/** The answer to a request; the id is ours. */
export interface Answer {
  readonly id: number | string;
  readonly result?: unknown;
  readonly error?: {
    readonly message: string;
    readonly data?: {
      readonly code: string;
      readonly retryable: boolean;
      readonly retryAfterMs?: number;
      readonly issues?: readonly { readonly path: string; readonly message: string }[];
    };
  };
}

/**
 * A call that did not succeed. `outcome` says what the caller may conclude: `failed`: nothing happened; `unknown`: it may
 * have happened, and only sending it again under the same id is safe.
 */
export class ClientError extends Error {
  override readonly name = "ClientError";
  readonly code: string;
  readonly outcome: "failed" | "unknown";
  readonly issues: readonly { readonly path: string; readonly message: string }[];

  constructor(
    code: string,
    message: string,
    outcome: "failed" | "unknown" = "failed",
    issues: ClientError["issues"] = [],
  ) {
    super(message);
    this.code = code;
    this.outcome = outcome;
    this.issues = issues;
  }
}

/** A wait that doubles from `firstMs` to `maxMs`, and a random half of it, so that many clients do not come back at once. */
export function backoffMs(attempt: number, firstMs: number, maxMs: number): number {
  const wait = Math.min(maxMs, firstMs * 2 ** Math.min(attempt, 30));
  return wait / 2 + (wait / 2) * Math.random();
}
