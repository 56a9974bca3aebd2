/** What travels between the client and a gateway: JSON-RPC 2.0 in text frames. Types only. */

import type { ConversationView, Entry, Message, PresenceState, Reminder, Scheduled } from "./model.ts";

/** What the server tells unasked. One of a newer server that is not here is passed over. */
export type Notification =
  | { method: "message"; params: { message: Message } }
  | { method: "message.edited"; params: EntryNotice<"edit"> }
  | { method: "message.recalled"; params: EntryNotice<"recall"> }
  | { method: "message.reaction"; params: EntryNotice<"reaction"> }
  | { method: "member"; params: EntryNotice<"member"> }
  | { method: "message.hidden"; params: HiddenNotice }
  | { method: "conversation.muted"; params: MutedNotice }
  | { method: "reminder"; params: { reminder: Reminder } }
  | { method: "scheduled"; params: { scheduled: Scheduled } }
  | { method: "read" | "delivered"; params: ReadNotice }
  | { method: "typing"; params: TypingNotice }
  | { method: "presence"; params: PresenceState }
  | { method: "conversation"; params: ConversationNotice }
  | { method: "session.resync"; params: { reason: "lagging" | "lost" | "overrun" } }
  | { method: "session.closing"; params: ClosingNotice };

/** An entry of a timeline that is no message. */
export interface EntryNotice<Kind extends Entry["kind"] = Entry["kind"]> {
  conversation: string;
  seq: number;
  entry: Extract<Entry, { kind: Kind }>;
}

/** Created; or changed by the entry. */
export interface ConversationNotice {
  conversation: ConversationView;
  seq?: number | undefined;
  entry?: Entry | undefined;
}

/** The user deleted it for himself, on another device. */
export interface HiddenNotice {
  conversation: string;
  seq: number;
}

/** The user muted it on another device, or ended that (no time). */
export interface MutedNotice {
  conversation: string;
  mutedUntil?: number | undefined;
}

/** How far a member has come: what he has read, or what has reached a device of his. */
export interface ReadNotice {
  conversation: string;
  user: string;
  seq: number;
}

export interface TypingNotice {
  conversation: string;
  user: string;
  on: boolean;
}

export interface ClosingNotice {
  reason: string;
  reconnectInMs: number;
}

/** The answer to session.open. */
export interface Session {
  user: string;
  connection: string;
  /** What an acknowledged send is safe from: "memory", "disk" or "replicated:<n>". */
  ackLevel: string;
  serverTime: number;
  heartbeatMs: number;
  limits: Record<string, number>;
}

/** A part of refused params that is at fault. */
export interface Issue {
  readonly path: string;
  readonly message: string;
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
      readonly issues?: readonly Issue[];
    };
  };
}
