/**
 * What the chat is made of, as it crosses the wire: plain types of the client's own, so that the folder can be copied without the
 * server. tests/client/wire.test.ts holds them against the schemas that the server validates with. Times are Unix milliseconds.
 *
 * A newer server may send kinds of entries and fields that these types do not have: they are passed on as they came.
 */

/** A message's body: `{text}` of type "text", of another type whatever its senders agreed on, and of a recalled one nothing. */
export type Body = Readonly<Record<string, unknown>> & { readonly text?: string };

export interface Reaction {
  emoji: string;
  count: number;
  /** The first 10 of them. */
  users: string[];
}

/** A message as it is now. */
export interface Message {
  /** Its place in the conversation's timeline. */
  seq: number;
  id: string;
  conversation: string;
  from: string;
  /** "text", or a name that the app gives its own. */
  type: string;
  body: Body;
  sentAt: number;
  /** The seq of another message. */
  replyTo?: number | undefined;
  mentions?: string[] | undefined;
  editedAt?: number | undefined;
  recalledAt?: number | undefined;
  reactions?: Reaction[] | undefined;
}

export type Role = "owner" | "admin" | "member";
/** Whether anybody may take himself in who knows the id, or members must do it. */
export type Join = "open" | "invited";

/** Of every entry that is no message. */
interface Step {
  seq: number;
  id: string;
  by: string;
  at: number;
}

/** One lasting change of a conversation. `target` is the seq of the message that it changes. */
export type Entry =
  | { kind: "message"; seq: number; id: string; message: Message }
  | (Step & { kind: "edit"; target: number; body: Body })
  | (Step & { kind: "recall"; target: number })
  | (Step & { kind: "reaction"; target: number; emoji: string; on: boolean })
  | (Step & {
      kind: "member";
      action: "added" | "removed" | "left" | "updated";
      users: string[];
      role?: Role | undefined;
      mutedUntil?: number | undefined;
    })
  | (Step & { kind: "settings"; title?: string | undefined; join?: Join | undefined; dissolved?: boolean | undefined });

export interface Member {
  user: string;
  role: Role;
  mutedUntil?: number | undefined;
}

export interface Conversation {
  id: string;
  type: "direct" | "group" | "channel";
  title: string;
  /** Which numbering of the timeline it is: another one, and nothing that was kept of it holds. */
  epoch: string;
  /** The seq of the newest entry; 0: none. */
  head: number;
  created: number;
  memberCount: number;
  join?: "open" | undefined;
  /** The first 1 000, owners and admins first. */
  members: Member[];
}

/** A conversation as notifications show it: without its member list. */
export type ConversationView = Omit<Conversation, "members">;

/** A conversation as lists show it. */
export interface ConversationSummary {
  id: string;
  type: "direct" | "group" | "channel";
  title: string;
  epoch: string;
  head: number;
  read: number;
  unread: number;
  mutedUntil?: number | undefined;
  lastMessage?: Message | undefined;
}

/** What has been seen of a conversation. */
export interface Cursor {
  conversation: string;
  epoch: string;
  seq: number;
  /** Of the entry at `seq`. */
  id?: string | undefined;
}

export interface PresenceState {
  user: string;
  online: boolean;
  lastSeen?: number | undefined;
}

export interface Device {
  id: string;
  online: boolean;
  connections: number;
  connectedAt?: number | undefined;
  lastSeen?: number | undefined;
  /** How it is woken, when it has push. */
  push?: "webpush" | "webhook" | "apns" | "fcm" | undefined;
}

/** A text that comes back to its user; with a place in a conversation, or without. */
export interface Reminder {
  id: string;
  state: "waiting" | "fired";
  at: number;
  conversation?: string | undefined;
  seq?: number | undefined;
  text: string;
  /** Only if the user has not read up to `seq` by then. */
  unlessRead?: boolean | undefined;
  createdAt: number;
  firedAt?: number | undefined;
}

/** A message that is sent later, and what became of it. */
export interface Scheduled {
  id: string;
  state: "waiting" | "sent" | "refused";
  conversation: string;
  clientId: string;
  type: string;
  body: Body;
  replyTo?: number | undefined;
  mentions?: string[] | undefined;
  deliverAt: number;
  expireAt?: number | undefined;
  createdAt: number;
  /** Of one that was sent. */
  seq?: number | undefined;
  /** Of one that was refused. */
  code?: string | undefined;
  reason?: string | undefined;
}
