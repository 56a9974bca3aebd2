/** Edits, recalls, reactions and deletions for oneself through real gateways: what every device is told and what it then holds. */

import { expect, test } from "bun:test";
import { type Client, connect, type Entry, fold, type Message } from "../../lib/client/index.ts";
import { openTestChat, type TestChat } from "../support/chat.ts";
import { eventually } from "../support/eventually.ts";
import { openTestStore } from "../support/redis.ts";

/** A client that holds a conversation as an app would. */
async function follow(
  chat: TestChat,
  user: string,
  gateway = 0,
): Promise<{ client: Client; messages: Map<number, Message> }> {
  const url = `${chat.gateways[gateway]!.url.replace("http", "ws")}/v1/ws`;
  const client = connect({ url, token: await chat.token(user) });
  const messages = new Map<number, Message>();
  client.on("entry", ({ entry }: { entry: Entry }) => {
    if (entry.kind === "message") messages.set(entry.seq, entry.message);
    else if ("target" in entry) messages.set(entry.target, fold(messages.get(entry.target)!, entry));
  });
  client.on("hidden", ({ seq }) => messages.delete(seq));
  await client.ready();
  return { client, messages };
}

test("every device, a fresh one and history hold the same messages", async () => {
  await using store = await openTestStore("gw-amend");
  await using chat = await openTestChat(store, { gateways: 2 });
  const conversation = await chat.group("ada", "bob", "cid");
  const ada = await follow(chat, "ada");
  const bob = await follow(chat, "bob", 1);
  const phone = await follow(chat, "bob");
  const first = await ada.client.send(conversation, "first");
  const poll = await bob.client.send(conversation, { type: "poll", body: { question: "lunch?", options: ["a", "b"] } });
  const third = await ada.client.send(conversation, "third", { replyTo: first.seq, mentions: ["bob"] });
  await Promise.all([
    ada.client.edit(conversation, first.seq, { text: "first, edited" }),
    bob.client.react(conversation, first.seq, "👍"),
    phone.client.react(conversation, third.seq, "🎉"),
    bob.client.edit(conversation, poll.seq, { question: "dinner?", options: [] }),
  ]);
  expect(await ada.client.recall(conversation, third.seq)).toMatchObject({ body: {} });
  await bob.client.react(conversation, first.seq, "👍", false);
  await bob.client.react(conversation, first.seq, "❤️");

  const { messages } = await ada.client.history(conversation, { after: 0 });
  const held = JSON.stringify(messages);
  expect(messages).toMatchObject([
    { body: { text: "first, edited" }, reactions: [{ emoji: "❤️", count: 1, users: ["bob"] }] },
    { type: "poll", body: { question: "dinner?" } },
    { body: {}, replyTo: 1, recalledAt: expect.any(Number) },
  ]);
  const fresh = await follow(chat, "cid", 1);
  for (const device of [ada, bob, phone, fresh]) {
    await eventually(() => expect(JSON.stringify([...device.messages.values()])).toBe(held));
    device.client.close();
  }
});

test("what a user deletes for himself goes from his devices and nobody else's", async () => {
  await using store = await openTestStore("gw-hide");
  await using chat = await openTestChat(store, { gateways: 2 });
  const conversation = await chat.group("ada", "bob");
  const ada = await follow(chat, "ada");
  const bob = await follow(chat, "bob");
  const phone = await follow(chat, "bob", 1);
  const { seq } = await ada.client.send(conversation, "not for bob");
  const next = await ada.client.send(conversation, "for bob");
  await eventually(() => expect(phone.messages.size).toBe(2));

  await bob.client.hide(conversation, seq);
  await bob.client.hide(conversation, seq);

  await eventually(() => expect([...phone.messages.keys()]).toEqual([next.seq]));
  expect((await bob.client.history(conversation)).messages.map((one) => one.seq)).toEqual([next.seq]);
  expect((await ada.client.history(conversation)).messages).toHaveLength(2);
  const fresh = await follow(chat, "bob");
  await eventually(() => expect([...fresh.messages.keys()]).toEqual([next.seq]));
  const path = `/v1/conversations/${conversation}/messages/${next.seq}?for=me`;
  expect((await chat.http("bob", "DELETE", path)).status).toBe(204);
  await eventually(() => expect(fresh.messages.size).toBe(0));
  await expect(bob.client.hide(conversation, 99)).rejects.toMatchObject({ code: "NOT_FOUND" });
  for (const { client } of [ada, bob, phone, fresh]) client.close();
});
