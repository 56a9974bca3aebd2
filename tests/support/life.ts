/** A user with everything: all that the product keeps of one, brought about over HTTP and WebSocket, and by what other roles publish. */

import { systemClock } from "../../lib/clock.ts";
import { imCommands, imPush, imTopics, imUsers } from "../../lib/im/index.ts";
import { openQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { BURSTS } from "../../lib/redis/index.ts";
import type { TestChat } from "./chat.ts";
import type { TestStore } from "./redis.ts";

/** Beyond any delay of a test. */
const LATER_MS = 3_600_000;

// biome-ignore lint/suspicious/noExplicitAny: replies of every shape
type Body = any;

/** Calls as a user; throws what is refused. */
export function callerOf(chat: TestChat) {
  let sent = 0;
  async function as(user: string, method: string, path: string, body?: unknown): Promise<Body> {
    const response = await chat.http(user, method, path, body);
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path} as ${user}: ${response.status} ${text}`);
    return text === "" ? undefined : JSON.parse(text);
  }
  return {
    as,
    async send(user: string, conversation: string, text: string, more: object = {}): Promise<number> {
      sent += 1;
      const path = `/v1/conversations/${conversation}/messages`;
      return (await as(user, "POST", path, { clientId: `c${sent}`, body: { text }, ...more })).seq;
    },
    async operator(method: string, path: string, body?: unknown): Promise<{ status: number; body: Body }> {
      const headers = { authorization: `Bearer ${chat.serviceKey}`, "content-type": "application/json" };
      const init = body === undefined ? { method, headers } : { method, headers, body: JSON.stringify(body) };
      const response = await fetch(chat.url + path, init);
      return { status: response.status, body: await response.json() };
    },
  };
}

type Caller = ReturnType<typeof callerOf>;

/** The life of `user` among bob, cid and eve; `word` is in all that he writes. */
export async function live(store: TestStore, chat: TestChat, caller: Caller, user: string, word: string) {
  const { as, send } = caller;
  const client = await chat.connect(user);
  const bob = await chat.connect("bob");
  await bob.request("presence.subscribe", { users: [user] });
  const create = async (by: string, body: object) =>
    (await as(by, "POST", "/v1/conversations", body)).conversation.id as string;
  const group = await chat.group(user, "bob", "cid");
  const direct = await create(user, { type: "direct", members: ["bob"] });
  const channel = await create("bob", { type: "channel", members: [user, "cid"] });
  const alone = await create(user, { type: "group", members: [] });
  const left = await create("bob", { type: "group", members: [user, "cid"] });
  const message = (conversation: string, seq: number) => `/v1/conversations/${conversation}/messages/${seq}`;
  const reaction = (seq: number, emoji: string) => `${message(group, seq)}/reactions/${encodeURIComponent(emoji)}`;

  const first = await send(user, group, `${word} one`, { mentions: ["bob", user] });
  await as("bob", "PUT", reaction(first, "👍"));
  const second = await send("bob", group, "an answer", { replyTo: first, mentions: ["cid", user] });
  await as(user, "PUT", reaction(second, "🎉"));
  await as("cid", "PUT", reaction(second, "🎉"));
  await as(user, "PATCH", message(group, first), { body: { text: `${word} edited` } });
  await as(user, "DELETE", message(group, await send(user, group, `${word} recalled`)));
  await as(user, "PATCH", `/v1/conversations/${group}`, { title: "Tea" });
  await as(user, "PATCH", `/v1/conversations/${group}/members/cid`, { role: "admin" });
  for (const conversation of [direct, alone, left]) await send(user, conversation, `${word} in ${conversation}`);
  await send("bob", direct, "to him");
  await send("bob", channel, "news", { mentions: [user] });
  await as(user, "DELETE", `/v1/conversations/${left}/members/${encodeURIComponent(user)}`);

  // What is his alone, and his in what is others'.
  await as(user, "PUT", `/v1/conversations/${group}/mute`, { until: Date.now() + LATER_MS });
  await as(user, "PUT", `/v1/conversations/${group}/read`, { seq: second });
  await client.request("delivered", { conversation: group, seq: second });
  await as(user, "DELETE", `${message(group, second)}?for=me`);
  await as(user, "PUT", "/v1/me/blocks/dan");
  await as("eve", "PUT", `/v1/me/blocks/${encodeURIComponent(user)}`);
  await as(user, "PUT", "/v1/me/push/phone", { kind: "webhook", url: "https://push.example.com/" });
  await as(user, "POST", "/v1/reminders", { conversation: group, seq: second, text: word, at: Date.now() + LATER_MS });
  await as(user, "POST", `/v1/conversations/${group}/messages`, {
    ...{ clientId: "scheduled", body: { text: `${word} scheduled` }, deliverAt: Date.now() + LATER_MS },
  });
  await as("bob", "POST", `/v1/conversations/${group}/messages`, {
    ...{ clientId: "of-him", body: { text: "later" }, mentions: [user], deliverAt: Date.now() + LATER_MS },
  });
  await caller.operator("POST", "/v1/broadcasts", { audience: { users: [user, "bob"] }, body: { text: "to many" } });
  await as(user, "POST", "/v1/broadcasts", { audience: { users: ["bob"] }, body: { text: `${word} to many` } });
  await publish(store, user, word, group);
  return { client, bob, group, direct, channel, first, second };
}

/** By roles that do not run here: what is pushed, commands, a dead letter, a reply to who pulls. */
async function publish(store: TestStore, user: string, word: string, group: string): Promise<void> {
  const { redis, keys, metrics } = store;
  const parts = { redis, keys, metrics, clock: systemClock, log: silentLog };
  const queue = openQueue({ ...parts, member: "t.life", topics: imTopics });
  await queue.publish(imPush, {
    ...{ type: "im.push.requested", key: group },
    data: { conversation: group, seq: 1, id: "m", users: ["bob", user] },
  });
  await queue.publish(imUsers, { type: "im.user.online", key: user, data: { user, at: 1 } });
  await queue.publish(imCommands, {
    ...{ type: "im.command.send", key: user, deliverAt: Date.now() + LATER_MS },
    data: {
      ...{ type: "send", by: user, to: { conversation: group }, clientId: "later", messageType: "text" },
      body: { text: word },
      cause: { kind: "broadcast", id: "b1" },
    },
  });
  const data = JSON.stringify({ from: user, body: { text: word } });
  await redis.commands.xadd(keys.deadLetters("im.events", 0, "archive"), "*", "i", "x", "k", group, "d", data);
  await redis.commands.hset(keys.own(keys.partitionOf(user), BURSTS), `${user}/${group}`, "b1 1");
  await redis.commands.set(keys.received("im.events", "shop", "a1"), `[${data}]`);
}
