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
  Reminder,
  Role,
  Scheduled,
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

/** Not now, but at `deliverAt`, and not after `expireAt`. The past is now. */
interface PutOff {
  deliverAt?: number | undefined;
  expireAt?: number | undefined;
}

/** The message will be sent, or refused: `scheduled` tells. */
export interface ScheduledReply {
  scheduled: string;
  deliverAt: number;
}

export interface ReminderParams {
  at: number;
  text: string;
  conversation?: string | undefined;
  seq?: number | undefined;
  /** Only if the user has not read up to `seq` by then. */
  unlessRead?: boolean | undefined;
  /** Names the reminder among the user's: the same one is made once. */
  clientId?: string | undefined;
}

interface AgendaPage {
  limit?: number | undefined;
  /** `next` of the previous page. */
  after?: string | undefined;
}

interface OfId {
  id: string;
}

export interface AgendaReply {
  result: "ok" | "already_fired" | "not_found";
}

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
  "message.send": [SendInput & PutOff, SendReply | ScheduledReply];
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
  "scheduled.list": [AgendaPage, { scheduled: Scheduled[]; next?: string | undefined }];
  "scheduled.move": [OfId & { at: number }, AgendaReply];
  "scheduled.cancel": [OfId, AgendaReply];
  "reminder.create": [ReminderParams, { reminder: Reminder }];
  "reminder.list": [AgendaPage, { reminders: Reminder[]; next?: string | undefined }];
  "reminder.move": [OfId & { at: number }, AgendaReply];
  "reminder.snooze": [OfId & { at: number }, AgendaReply];
  "reminder.cancel": [OfId, AgendaReply];
}
export type Method = keyof Methods;
