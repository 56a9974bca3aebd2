/**
 * The client of the chat, for browsers and Bun: one WebSocket that comes back by itself, requests that survive it, and each
 * conversation's entries once, in order, without a hole. No dependencies; copy the folder into an app.
 *
 *   const client = connect({ url: "ws://127.0.0.1:7400/v1/ws", token });
 *   client.on("message", ({ message }) => console.log(message.from, message.body.text));
 *   await client.send("conversation-id", "hello");
 *
 * What it promises: `send` resolves when the message is committed at the server's ack level, and two sends to one
 * conversation are committed in the order of the calls. `message`, `member` and `entry` come by seq, one's own messages
 * included. After an absence they go on where they stopped; where they cannot, `resync` says so first. What it does not do:
 * keep anything beyond its own life (see `cursors`), or page history that nobody asked for. An app that holds messages brings
 * them up to date with `fold(message, entry)`.
 */

import { ClientError } from "./error.ts";
import { fold } from "./fold.ts";
import type {
  ConversationReply,
  CreateParams,
  HistoryParams,
  HistoryReply,
  Method,
  Methods,
  ReadReply,
  SendInput,
  SendReply,
} from "./methods.ts";
import type { Body, ConversationView, Cursor, Entry, Message, PresenceState } from "./model.ts";
import { createPassing } from "./passing.ts";
import { createRequests } from "./requests.ts";
import { openSocket, type SocketOptions } from "./socket.ts";
import { createTimelines, type ResyncNotice } from "./timeline.ts";
import type {
  Answer,
  ClosingNotice,
  HiddenNotice,
  MutedNotice,
  Notification,
  ReadNotice,
  Session,
  TypingNotice,
} from "./wire.ts";

export type * from "./methods.ts";
export type * from "./model.ts";
export type * from "./wire.ts";
export { ClientError, fold, type ResyncNotice };

/** Long enough to outlive a server's restart; then the outcome is unknown and the app decides. */
const TIMEOUT_MS = 30_000;

export interface ConnectOptions extends SocketOptions {
  /** Where an earlier life of the app stopped (see `Client.cursors`). */
  readonly cursors?: readonly Cursor[];
  /** Of a request, over all its repetitions. Default 30 s. */
  readonly timeoutMs?: number;
  /** Tells the others what has reached this device (`delivered`). Default: no. */
  readonly acknowledge?: boolean;
}

export interface ClientEvents {
  /** Every entry of every timeline, by seq; the typed events below are of the same moment. */
  entry: { conversation: string; entry: Entry };
  message: { message: Message };
  edited: { conversation: string; entry: Extract<Entry, { kind: "edit" }> };
  recalled: { conversation: string; entry: Extract<Entry, { kind: "recall" }> };
  reaction: { conversation: string; entry: Extract<Entry, { kind: "reaction" }> };
  member: { conversation: string; entry: Extract<Entry, { kind: "member" }> };
  /** The user deleted a message for himself on another device, or had done so before it was received here. */
  hidden: HiddenNotice;
  muted: MutedNotice;
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

export interface Client {
  /** Returns the function that ends the subscription. What a listener throws is reported as uncaught, not to us. */
  on<E extends keyof ClientEvents>(event: E, listener: (payload: ClientEvents[E]) => void): () => void;
  /** Resolves with the session as soon as there is one; rejects when there will be none. */
  ready(): Promise<Session>;
  /** Commits a message once. Rejects with ClientError: `failed`, or `unknown` (send it again under the same clientId). */
  send(conversation: string, content: Content, options?: SendOptions): Promise<SendReply>;
  /** Each resolves with the message as it is then. */
  edit(conversation: string, seq: number, body: Body): Promise<Message>;
  recall(conversation: string, seq: number): Promise<Message>;
  react(conversation: string, seq: number, emoji: string, on?: boolean): Promise<Message>;
  /** Deletes a message for the user alone, on all devices. */
  hide(conversation: string, seq: number): Promise<void>;
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
  request<M extends Method>(method: M, params: Methods[M][0]): Promise<Methods[M][1]>;
  /** Follows a conversation from after the cursor, when it is not followed yet. */
  follow(cursor: Cursor): void;
  cursors(): Cursor[];
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

type Listeners = { [E in keyof ClientEvents]: Set<(payload: ClientEvents[E]) => void> };

const noListeners = (): Listeners => ({
  entry: new Set(),
  message: new Set(),
  edited: new Set(),
  recalled: new Set(),
  reaction: new Set(),
  hidden: new Set(),
  muted: new Set(),
  member: new Set(),
  read: new Set(),
  delivered: new Set(),
  typing: new Set(),
  presence: new Set(),
  conversation: new Set(),
  resync: new Set(),
  closing: new Set(),
  online: new Set(),
  offline: new Set(),
  ended: new Set(),
});

/** Connects at once, and again whenever the connection is lost, until close() or a final refusal. */
export function connect(options: ConnectOptions): Client {
  const timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
  const listeners = noListeners();
  let user = "";
  const session = Promise.withResolvers<Session>();
  // Nobody has to wait for it.
  session.promise.catch(() => undefined);

  function emit<E extends keyof ClientEvents>(event: E, payload: ClientEvents[E]): void {
    for (const listener of listeners[event]) {
      try {
        listener(payload);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }

  const requests = createRequests((frame) => socket.send(frame));
  const request = <M extends Method>(method: M, params: Methods[M][0], lane?: string) =>
    requests.ask(method, params, lane === undefined ? { timeoutMs } : { timeoutMs, lane });

  const timelines = createTimelines((cursors) => request("sync", { cursors }), {
    onEntry: handOn,
    onHidden: (notice) => emit("hidden", notice),
    onResync: (notice) => emit("resync", notice),
  });
  const passing = createPassing(request, () => socket.isOpen(), {
    onTyping: (notice) => emit("typing", notice),
    onPresence: (state) => emit("presence", state),
  });
  for (const cursor of options.cursors ?? []) timelines.follow(cursor);

  function handOn(conversation: string, entry: Entry): void {
    emit("entry", { conversation, entry });
    if (entry.kind === "message") {
      const isForeign = entry.message.from !== user;
      passing.onMessage(entry.message, isForeign && options.acknowledge === true);
      emit("message", { message: entry.message });
    } else if (entry.kind === "edit") emit("edited", { conversation, entry });
    else if (entry.kind === "recall") emit("recalled", { conversation, entry });
    else if (entry.kind === "reaction") emit("reaction", { conversation, entry });
    else if (entry.kind === "member") emit("member", { conversation, entry });
  }

  function end(error: ClientError): void {
    requests.end(error);
    timelines.end();
    passing.end();
    session.reject(error);
  }

  const socket = openSocket(options, {
    onOpen(opened) {
      user = opened.user;
      session.resolve(opened);
      emit("online", { session: opened });
      requests.onOpen(opened.limits);
      timelines.catchUpAll();
      passing.onOpen();
    },
    onAnswer: (answer: Answer) => requests.onAnswer(answer),
    onNotification: notified,
    onClosing: (notice) => emit("closing", notice),
    onDown(reason) {
      requests.onDown();
      emit("offline", { reason });
    },
    onEnd(error) {
      end(error);
      emit("ended", { error });
    },
  });

  function notified(notification: Notification): void {
    switch (notification.method) {
      case "message": {
        const { message } = notification.params;
        timelines.live(message.conversation, messageEntry(message));
        break;
      }
      case "message.edited":
      case "message.recalled":
      case "message.reaction":
      case "member":
        changed(notification.params);
        break;
      case "conversation": {
        const { conversation, entry } = notification.params;
        const { id, epoch, head } = conversation;
        timelines.compare(conversation);
        // Without an entry it is a conversation that begins, for all its members.
        if (entry) placed(id, epoch, entry);
        else timelines.follow({ conversation: id, epoch, seq: head });
        emit("conversation", { conversation });
        break;
      }
      case "message.hidden":
        emit("hidden", notification.params);
        break;
      case "conversation.muted":
        emit("muted", notification.params);
        break;
      case "read":
      case "delivered":
        emit(notification.method, notification.params);
        break;
      case "typing":
        passing.onTyping(notification.params);
        break;
      case "presence":
        emit("presence", notification.params);
        break;
      case "session.resync":
        timelines.catchUpAll();
    }
  }

  const changed = ({ conversation, entry }: { conversation: string; entry: Entry }) => placed(conversation, "", entry);

  /** An entry that takes the user in begins the timeline for this client; one that takes the user out ends it. */
  function placed(conversation: string, epoch: string, entry: Entry): void {
    const isAboutMe = entry.kind === "member" && entry.users.includes(user);
    if (isAboutMe && (entry.action === "removed" || entry.action === "left")) {
      if (timelines.leave(conversation, entry.seq)) emit("member", { conversation, entry });
      return;
    }
    if (isAboutMe && entry.action === "added") timelines.follow({ conversation, epoch, seq: entry.seq - 1 });
    timelines.live(conversation, entry);
  }

  return {
    on(event, listener) {
      listeners[event].add(listener);
      return () => void listeners[event].delete(listener);
    },
    ready: () => session.promise,
    async send(conversation, content, { clientId = crypto.randomUUID(), replyTo, mentions } = {}) {
      const { type, body } = typeof content === "string" ? { type: "text", body: { text: content } } : content;
      const links = { ...(replyTo === undefined ? {} : { replyTo }), ...(mentions === undefined ? {} : { mentions }) };
      const params = { conversation, clientId, type, body, ...links } as SendInput;
      passing.sent(conversation);
      const reply = await request("message.send", params, conversation);
      // The server tells every connection of the sender but this one.
      const { id, seq, sentAt } = reply;
      timelines.live(conversation, messageEntry({ seq, id, conversation, from: user, type, body, sentAt, ...links }));
      return reply;
    },
    edit: async (conversation, seq, body) => (await request("message.edit", { conversation, seq, body })).message,
    recall: async (conversation, seq) => (await request("message.recall", { conversation, seq })).message!,
    react: async (conversation, seq, emoji, on = true) =>
      (await request("message.react", { conversation, seq, emoji, on })).message,
    async hide(conversation, seq) {
      await request("message.recall", { conversation, seq, for: "me" });
    },
    history: (conversation, range = {}) => request("message.history", { conversation, ...range }),
    typing: (conversation, on = true) => passing.type(conversation, on),
    watch: passing.watch,
    unwatch: passing.unwatch,
    read: (conversation, seq) => request("read", { conversation, seq }),
    async create(params) {
      // Without an id a repeated request would create a second group.
      const isNamed = params.type === "direct" || params.id !== undefined;
      const reply = await request("conversation.create", isNamed ? params : { ...params, id: crypto.randomUUID() });
      const { id, epoch, head } = reply.conversation;
      timelines.follow({ conversation: id, epoch, seq: head });
      return reply;
    },
    async leave(conversation) {
      await request("member.remove", { conversation, user }).catch((error: ClientError) => {
        // Not being a member is what was asked for: an answer that got lost may have said so before.
        if (error.code !== "NOT_MEMBER") throw error;
      });
      timelines.leave(conversation);
    },
    request: (method, params) => request(method, params),
    follow: (cursor) => timelines.follow(cursor),
    cursors: () => timelines.cursors(),
    close() {
      socket.close();
      end(new ClientError("CLOSED", "the client was closed"));
    },
  };
}

function messageEntry(message: Message): Entry {
  return { kind: "message", seq: message.seq, id: message.id, message };
}
