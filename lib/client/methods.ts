/**
 * Every request of the chat: what it takes and what it answers. All may be sent twice, for the server knows them by their ids;
 * that is what lets the client repeat them.
 */

import type {
  Body,
  Conversation,
  ConversationSummary,
  Cursor,
  Device,
  Entry,
  Join,
  Message,
  PresenceState,
  Role,
} from "./model.ts";

type None = Record<string, never>;

interface OfConversation {
  conversation: string;
}

interface OfMessage extends OfConversation {
  seq: number;
}

interface SendLinks extends OfConversation {
  /** Names the message among the sender's of this conversation: the same one is sent once, within 24 h. */
  clientId: string;
  replyTo?: number | undefined;
  mentions?: string[] | undefined;
}

export type SendInput =
  | (SendLinks & { type?: "text" | undefined; body: { text: string } })
  | (SendLinks & { type: string; body: Body });

/** Where the message lies now. */
export interface SendReply extends OfMessage {
  id: string;
  sentAt: number;
  /** It was there before. */
  duplicate?: true | undefined;
}

export interface MessageReply {
  message: Message;
}

export interface HistoryParams extends OfConversation {
  after?: number | undefined;
  before?: number | undefined;
  limit?: number | undefined;
}

/** Ascending by seq; as the messages are now. */
export interface HistoryReply {
  epoch: string;
  head: number;
  messages: Message[];
  more: boolean;
}

export interface SearchReply {
  hits: { conversation: string; message: Message }[];
  next?: string | undefined;
}

export interface SyncReply {
  conversations: {
    conversation: string;
    verdict: "resumed" | "gap" | "reset";
    epoch: string;
    head: number;
    read: number;
    unread: number;
    entries: Entry[];
    more: boolean;
    hidden?: number[] | undefined;
  }[];
}

export interface ReadReply {
  read: number;
  unread: number;
}

export interface ConversationReply {
  conversation: Conversation;
}

export interface ListConversationsReply {
  conversations: ConversationSummary[];
  next?: string | undefined;
}

export interface CreateParams {
  id?: string | undefined;
  type: "direct" | "group" | "channel";
  members: string[];
  title?: string | undefined;
  join?: Join | undefined;
}

/** Name -> what it takes, what it answers. */
export interface Methods {
  "session.ping": [None, { serverTime: number }];
  "message.send": [SendInput, SendReply];
  "message.edit": [OfMessage & { body: Body }, MessageReply];
  "message.recall": [OfMessage & { for?: "everyone" | "me" | undefined }, Partial<MessageReply>];
  "message.react": [OfMessage & { emoji: string; on?: boolean | undefined }, MessageReply];
  "message.history": [HistoryParams, HistoryReply];
  search: [
    { q: string; conversation?: string | undefined; before?: string | undefined; limit?: number | undefined },
    SearchReply,
  ];
  sync: [{ cursors?: Cursor[] | undefined }, SyncReply];
  read: [OfMessage, ReadReply];
  delivered: [OfMessage, { delivered: number }];
  typing: [OfConversation & { on: boolean }, None];
  "conversation.create": [CreateParams, ConversationReply];
  "conversation.list": [{ limit?: number | undefined; before?: string | undefined }, ListConversationsReply];
  "conversation.get": [OfConversation, ConversationReply];
  "conversation.update": [OfConversation & { title?: string | undefined; join?: Join | undefined }, ConversationReply];
  "conversation.dissolve": [OfConversation, None];
  "conversation.mute": [OfConversation & { until: number }, { mutedUntil?: number | undefined }];
  "conversation.receipts": [OfConversation, { receipts: { user: string; delivered: number; read: number }[] }];
  "member.add": [OfConversation & { users: string[] }, ConversationReply];
  "member.remove": [OfConversation & { user: string }, None];
  "member.update": [
    OfConversation & { user: string; role?: Role | undefined; mutedUntil?: number | undefined },
    ConversationReply,
  ];
  "presence.subscribe": [{ users: string[] }, { presence: PresenceState[] }];
  "presence.unsubscribe": [{ users: string[] }, None];
  "device.list": [None, { devices: Device[] }];
  "device.remove": [{ device: string }, None];
  "block.list": [None, { blocks: { user: string; since: number }[] }];
  "block.add": [{ user: string }, { user: string; since: number }];
  "block.remove": [{ user: string }, None];
}
export type Method = keyof Methods;
