/** What a client tells its app, by name, and how the app listens. */

import type { ClientError } from "./error.ts";
import type { SendInput, SendReply } from "./methods.ts";
import type { ConversationView, Entry, Message, PresenceState, Reminder, Scheduled } from "./model.ts";
import type { ResyncNotice } from "./timeline.ts";
import type { ClosingNotice, HiddenNotice, MutedNotice, ReadNotice, Session, TypingNotice } from "./wire.ts";

export interface ClientEvents {
  /** Every entry of every timeline, by seq; the typed events below are of the same moment. */
  entry: { conversation: string; entry: Entry };
  message: { message: Message };
  edited: { conversation: string; entry: Extract<Entry, { kind: "edit" }> };
  recalled: { conversation: string; entry: Extract<Entry, { kind: "recall" }> };
  reaction: { conversation: string; entry: Extract<Entry, { kind: "reaction" }> };
  member: { conversation: string; entry: Extract<Entry, { kind: "member" }> };
  settings: { conversation: string; entry: Extract<Entry, { kind: "settings" }> };
  /** One's own message is committed: of a `send`, or of one that a former life of the app left in the store. */
  sent: { input: SendInput; reply: SendReply };
  /** It is not, and will not be tried again; `error.outcome` says whether it may be there all the same. */
  failed: { input: SendInput; error: ClientError };
  /** The user deleted a message for himself on another device, or had done so before it was received here. */
  hidden: HiddenNotice;
  muted: MutedNotice;
  /** One of the user's is due. After a takeover it may come twice. */
  reminder: { reminder: Reminder };
  /** A message that was put off has been sent, or was refused. */
  scheduled: { scheduled: Scheduled };
  /** Of the user himself also after an absence: he may have read on another device. */
  read: ReadNotice;
  delivered: ReadNotice;
  /** Begins and ends, each once; ends by itself when nothing is heard of it. */
  typing: TypingNotice;
  /** Of users that are watched: how it is, and when it changes. */
  presence: PresenceState;
  /** Created, changed, joined or left. */
  conversation: { conversation: ConversationView };
  resync: ResyncNotice;
  closing: ClosingNotice;
  online: { session: Session };
  offline: { reason: string };
  /** For good: the token was refused, or the server closed the door. */
  ended: { error: ClientError };
}

type Listener = (payload: never) => void;

export interface Events {
  /** Returns the function that ends the subscription. */
  on<E extends keyof ClientEvents>(event: E, listener: (payload: ClientEvents[E]) => void): () => void;
  emit<E extends keyof ClientEvents>(event: E, payload: ClientEvents[E]): void;
}

export function createEvents(): Events {
  const listeners = new Map<keyof ClientEvents, Set<Listener>>();
  return {
    on(event, listener) {
      const all = listeners.get(event) ?? new Set();
      listeners.set(event, all.add(listener));
      return () => void all.delete(listener);
    },
    emit(event, payload) {
      for (const listener of listeners.get(event) ?? []) {
        try {
          listener(payload as never);
        } catch (error) {
          reportUncaught(error);
        }
      }
    },
  };
}

/** The app's own error goes where its uncaught errors go, not into our work. */
export function reportUncaught(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}
