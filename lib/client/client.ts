/** What an app sees of a client: how it is made, and what it can be asked. What it tells is in events.ts. */

import type { Events } from "./events.ts";
import type {
  ConversationReply,
  CreateParams,
  HistoryParams,
  HistoryReply,
  Method,
  Methods,
  ReadReply,
  ReminderParams,
  ScheduledReply,
  SendReply,
} from "./methods.ts";
import type { Body, Cursor, Message, Reminder } from "./model.ts";
import type { SocketOptions } from "./socket.ts";
import type { Store, Unsent } from "./store.ts";
import type { Session } from "./wire.ts";

export interface ConnectOptions extends SocketOptions {
  /** Keeps cursors and unsent messages over lives of the app. Without one they end with the client. */
  readonly store?: Store;
  /** Where to begin, for an app that keeps its places itself (see `Client.cursors`). Those of a store come first. */
  readonly cursors?: readonly Cursor[];
  /** Of a request, over all its repetitions; of a send only without a store. Default 30 s. */
  readonly timeoutMs?: number;
  /** Tells the others what has reached this device (`delivered`). Default: no. */
  readonly acknowledge?: boolean;
}

export interface Client {
  /** Returns the function that ends the subscription. What a listener throws is reported as uncaught, not to us. */
  on: Events["on"];
  /** Resolves with the session as soon as there is one; rejects when there will be none. */
  ready(): Promise<Session>;
  /** Commits a message once. Rejects with ClientError: `failed`, or `unknown` (send it again under the same clientId). */
  send(conversation: string, content: Content, options?: SendOptions): Promise<SendReply>;
  /** Sends it at that time. `scheduled` tells what becomes of it; with a time that has passed it is sent now. */
  schedule(
    conversation: string,
    content: Content,
    deliverAt: number,
    options?: SendOptions,
  ): Promise<SendReply | ScheduledReply>;
  /** Safe to repeat. `reminder` tells when it is due. */
  remind(params: ReminderParams): Promise<Reminder>;
  /** One's own messages whose commit is not known, oldest first; with a store also of former lives. */
  unsent(): Unsent[];
  /** Each resolves with the message as it is then. */
  edit(conversation: string, seq: number, body: Body): Promise<Message>;
  recall(conversation: string, seq: number): Promise<Message>;
  react(conversation: string, seq: number, emoji: string, on?: boolean): Promise<Message>;
  /** Deletes a message for the user alone, on all devices. */
  hide(conversation: string, seq: number): Promise<void>;
  /** Messages as they are now: no entry that was handed on before it resolves is missing in them. */
  history(conversation: string, range?: Omit<HistoryParams, "conversation">): Promise<HistoryReply>;
  read(conversation: string, seq: number): Promise<ReadReply>;
  /** To be called as often as the user types; false when he stopped. Sending ends it. */
  typing(conversation: string, on?: boolean): void;
  /** From now on, over reconnects, `presence` tells of these users. */
  watch(users: readonly string[]): void;
  unwatch(users: readonly string[]): void;
  /** Creates a group (the caller is its owner), or finds the direct conversation of a pair. Safe to repeat. */
  create(params: CreateParams): Promise<ConversationReply>;
  leave(conversation: string): Promise<void>;
  /** Any method of the server by its name. Repeated until it is answered, as all of the above are. */
  request<M extends Method>(method: M, params: Methods[M][0]): Promise<Methods[M][1]>;
  /** Follows a conversation from after the cursor, when it is not followed yet. */
  follow(cursor: Cursor): void;
  cursors(): Cursor[];
  /** Ends it; what is unsent stays in the store. */
  close(): void;
}

/** A text, or a body of the app's own type. */
export type Content = string | { readonly type: string; readonly body: Body };

export interface SendOptions {
  /** Default: a new one. Keep it when the outcome is unknown. */
  readonly clientId?: string;
  readonly replyTo?: number;
  readonly mentions?: string[];
}
