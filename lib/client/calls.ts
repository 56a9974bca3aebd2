/** What an app asks most, each as a function; everything else goes by `request`. */

import type { Client, Content, SendOptions } from "./client.ts";
import type { ClientError } from "./error.ts";
import type { Events } from "./events.ts";
import { fold } from "./fold.ts";
import type { Method, Methods, SendInput } from "./methods.ts";
import type { Entry } from "./model.ts";
import type { Outbox } from "./outbox.ts";
import type { Passing } from "./passing.ts";
import type { Timelines } from "./timeline.ts";

export interface CallParts {
  readonly events: Events;
  request<M extends Method>(method: M, params: Methods[M][0]): Promise<Methods[M][1]>;
  readonly outbox: Outbox;
  readonly passing: Passing;
  readonly timelines: Timelines;
  /** Who the session's user is. */
  user(): string;
}

export function createCalls({ events, request, outbox, passing, timelines, user }: CallParts) {
  return {
    send(conversation, content, options) {
      passing.sent(conversation);
      return outbox.add(inputOf(conversation, content, options));
    },
    schedule: (conversation, content, deliverAt, options) =>
      request("message.send", { ...inputOf(conversation, content, options), deliverAt }),
    remind: async (params) => (await request("reminder.create", { clientId: newId(), ...params })).reminder,
    unsent: outbox.unsent,
    edit: async (conversation, seq, body) => (await request("message.edit", { conversation, seq, body })).message,
    recall: async (conversation, seq) => (await request("message.recall", { conversation, seq })).message!,
    react: async (conversation, seq, emoji, on = true) =>
      (await request("message.react", { conversation, seq, emoji, on })).message,
    async hide(conversation: string, seq: number) {
      await request("message.recall", { conversation, seq, for: "me" });
    },
    async history(conversation, range = {}) {
      const heard: Entry[] = [];
      const stop = events.on("entry", (told) => void (told.conversation === conversation && heard.push(told.entry)));
      try {
        const reply = await request("message.history", { conversation, ...range });
        // The answer may be older than entries that overtook it.
        const later = heard.filter(({ seq }) => seq > reply.head);
        return { ...reply, messages: reply.messages.map((message) => later.reduce(fold, message)) };
      } finally {
        stop();
      }
    },
    read: (conversation, seq) => request("read", { conversation, seq }),
    typing: (conversation, on = true) => passing.type(conversation, on),
    watch: passing.watch,
    unwatch: passing.unwatch,
    async create(params) {
      // Without an id a repeated request would create a second group.
      const isNamed = params.type === "direct" || params.id !== undefined;
      const reply = await request("conversation.create", isNamed ? params : { ...params, id: newId() });
      const { id, epoch, head } = reply.conversation;
      timelines.follow({ conversation: id, epoch, seq: head });
      return reply;
    },
    async leave(conversation: string) {
      await request("member.remove", { conversation, user: user() }).catch((error: ClientError) => {
        // Not being a member is what was asked for: an answer that got lost may have said so before.
        if (error.code !== "NOT_MEMBER") throw error;
      });
      timelines.leave(conversation);
    },
    request,
    follow: timelines.follow,
    cursors: timelines.cursors,
  } satisfies Omit<Client, "on" | "ready" | "close">;
}

function inputOf(
  conversation: string,
  content: Content,
  { clientId = newId(), replyTo, mentions }: SendOptions = {},
): SendInput {
  const { type, body } = typeof content === "string" ? { type: "text", body: { text: content } } : content;
  const links = { ...(replyTo === undefined ? {} : { replyTo }), ...(mentions === undefined ? {} : { mentions }) };
  return { conversation, clientId, type, body, ...links } as SendInput;
}

/** 128 random bits. Not crypto.randomUUID: pages that came by plain HTTP do not have it. */
function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
