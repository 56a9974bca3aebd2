/** The chat's state functions over the shared test Redis: what logic's methods are made of, without a process around them. */

import { systemClock } from "../../lib/clock.ts";
import { type Body, createChat, type Judge, listConversations, type ReadArchive, send } from "../../lib/im/index.ts";
import type { TestStore } from "./redis.ts";

const emptyArchive: ReadArchive = async () => [];

export interface ChatOptions {
  /** Of a partition of im.events. */
  readonly eventsMax?: number;
  readonly makeRoom?: (partition: number) => Promise<void>;
  readonly judge?: Judge;
  readonly replicas?: number;
  readonly isErased?: (user: string) => Promise<boolean>;
}

export function makeChat(
  { redis, keys, metrics }: TestStore,
  readArchive: ReadArchive = emptyArchive,
  { makeRoom = async () => undefined, ...limits }: ChatOptions = {},
) {
  const chat = createChat({
    ...{ redis: redis.commands, keys, clock: systemClock, metrics, readArchive, makeRoom },
    ...{ replicas: 0, recallMs: 120_000, ...limits },
  });
  let count = 0;
  return {
    ...chat,
    list: (user: string, limit = 10, before?: string) => listConversations(chat, user, limit, before),
    /** Sends a text, or a body of another type, under a fresh clientId, or the given one. */
    send: (
      by: string,
      conversation: string,
      content: string | { type: string; body: Body },
      more: { clientId?: string; replyTo?: number; mentions?: string[]; connection?: string } = {},
    ) => {
      const { connection, ...params } = more;
      const { type, body } = typeof content === "string" ? { type: "text", body: { text: content } } : content;
      count += 1;
      return send(chat, {
        by,
        connection,
        params: { conversation, clientId: `c${count}`, type, body, ...params },
      });
    },
    /** A group of the given users, the first its owner. */
    async group(...users: string[]): Promise<string> {
      const [owner, ...members] = users;
      const { conversation } = await chat.conversations.create(owner!, { type: "group", members });
      return conversation.id;
    },
    /** The timeline's rows as stored: [seq, kind, ordinal, record]. */
    async rows(conversation: string): Promise<[number, string, number, Record<string, unknown>][]> {
      const found = await chat.redis.xrange(keys.log(conversation), "-", "+");
      return found.map(([id, [kind, record]]) => {
        const [seq, ordinal] = id.split("-").map(Number);
        return [seq!, kind!, ordinal!, JSON.parse(record!)];
      });
    },
    /** The events of the conversation's partition: type, sequence, data. */
    async events(conversation: string): Promise<{ type: string; sequence: string; data: Record<string, unknown> }[]> {
      const found = await chat.redis.xrange(keys.topic("im.events", keys.partitionOf(conversation)), "-", "+");
      return found
        .map(([, [header, data]]) => ({ header: header!.split(" "), data: JSON.parse(data!) }))
        .filter(({ header }) => header[2] === conversation)
        .map(({ header: [, type, , sequence], data }) => ({ type: type!, sequence: sequence!, data }));
    },
  };
}

export type Chat = ReturnType<typeof makeChat>;
