import { describe, expect, test } from "bun:test";
import { createAmendments, history, LIMITS, listConversations, sync } from "../../lib/im/index.ts";
import { type Chat, makeChat } from "../support/im.ts";
import { openTestStore } from "../support/redis.ts";

/** A group of ann (owner), bob (admin), cid and dan, in which cid has said "first". */
async function setup() {
  const store = await openTestStore("amend");
  const chat = makeChat(store);
  const conversation = await chat.group("ann", "bob", "cid", "dan");
  await chat.conversations.update("ann", conversation, "bob", { role: "admin" });
  const sent = await chat.send("cid", conversation, "first");
  if (!sent.ok) throw sent.error;
  const { seq } = sent.value;
  return {
    chat,
    conversation,
    target: { conversation, seq },
    store,
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  };
}

const lastRow = async (chat: Chat, conversation: string) => (await chat.rows(conversation)).at(-1)!;
const seen = async (chat: Chat, user: string, conversation: string) =>
  (await history(chat, user, { conversation, limit: 50 })).messages;

describe("an edit", () => {
  test("is the next entry and its event; history shows the new body, and nobody has more unread", async () => {
    await using world = await setup();
    const { chat, conversation, target } = world;
    const before = await chat.conversations.state("dan", conversation);

    const message = await chat.amendments.edit("cid", target, { text: 'second "quoted" 🜁' });

    expect(message).toMatchObject({ seq: 2, body: { text: 'second "quoted" 🜁' }, editedAt: expect.any(Number) });
    const [seq, kind, ordinal, entry] = await lastRow(chat, conversation);
    expect([seq, kind, ordinal]).toEqual([3, "edit", 1]);
    expect(entry).toEqual({
      kind: "edit",
      seq: 3,
      id: expect.any(String),
      by: "cid",
      at: message.editedAt,
      target: 2,
      body: message.body,
    });
    expect((await chat.events(conversation)).at(-1)).toEqual({
      type: "im.message.edited",
      sequence: "3",
      data: { conversation, entry },
    });
    expect(await seen(chat, "dan", conversation)).toEqual([message]);
    const after = await chat.conversations.state("dan", conversation);
    expect(after).toMatchObject({ head: 3, unread: before!.unread, activeMs: before!.activeMs, lastMessage: message });
    expect((await listConversations(chat, "dan", 10)).conversations[0]!.lastMessage).toEqual(message);
  });

  test("to the body that it has already, repeated or not, is no entry", async () => {
    await using world = await setup();
    const { chat, conversation, target } = world;
    expect(await chat.amendments.edit("cid", target, { text: "first" })).not.toHaveProperty("editedAt");
    const edited = await chat.amendments.edit("cid", target, { text: "second" });
    expect(await chat.amendments.edit("cid", target, { text: "second" })).toEqual(edited);
    expect(await chat.rows(conversation)).toHaveLength(3);
  });

  test("of a body of the app's own, with names like ours in it", async () => {
    await using world = await setup();
    const { chat, conversation } = world;
    const body = { body: { text: "x" }, sentAt: 5, from: "eve", type: "text", constructor: [1, { deep: null }] };
    const sent = await chat.send("cid", conversation, { type: "poll", body });
    const target = { conversation, seq: sent.ok ? sent.value.seq : 0 };
    expect((await seen(chat, "dan", conversation)).at(-1)).toMatchObject({ type: "poll", body });
    const edited = await chat.amendments.edit("cid", target, { ...body, sentAt: 6 });
    expect(edited).toMatchObject({ type: "poll", from: "cid", body: { ...body, sentAt: 6 } });
    expect(await chat.amendments.edit("cid", target, { ...body, sentAt: 6 })).toEqual(edited);
    expect(await chat.rows(conversation)).toHaveLength(4);
    await chat.amendments.recall("cid", target);
  });

  test("of a text must be a text", async () => {
    await using world = await setup();
    const { chat, target } = world;
    await expect(chat.amendments.edit("cid", target, { text: "x", more: 1 })).rejects.toMatchObject({
      code: "INVALID",
      issues: [{ path: "body" }],
    });
  });

  test.each([
    ["ann", "FORBIDDEN"],
    ["bob", "FORBIDDEN"],
    ["dan", "FORBIDDEN"],
    ["eve", "NOT_MEMBER"],
  ])("by %s, who did not write it, is refused", async (user, code) => {
    await using world = await setup();
    const { chat, conversation, target } = world;
    await expect(chat.amendments.edit(user, target, { text: "x" })).rejects.toMatchObject({ code });
    expect(await chat.rows(conversation)).toHaveLength(2);
  });
});

describe("a recall", () => {
  test("leaves the place and the author, in history and in what a returning client is given", async () => {
    await using world = await setup();
    const { chat, conversation } = world;
    const sent = await chat.send("cid", conversation, "secret", { replyTo: 2, mentions: ["dan"] });
    const target = { conversation, seq: sent.ok ? sent.value.seq : 0 };
    await chat.amendments.react("dan", target, "👍", true);
    await chat.amendments.edit("cid", target, { text: "still secret" });

    const message = await chat.amendments.recall("cid", target);

    const { id, sentAt } = message;
    const bare = { seq: 3, id, conversation, from: "cid", type: "text", body: {}, sentAt, replyTo: 2 };
    expect(message).toEqual({ ...bare, recalledAt: expect.any(Number) });
    expect((await seen(chat, "dan", conversation)).at(-1)).toEqual(message);
    const { conversations } = await sync(chat, "dan");
    expect(conversations[0]!.entries.find(({ seq }) => seq === 3)).toMatchObject({ kind: "message", message });
    expect(conversations[0]!.entries.at(-1)).toMatchObject({ kind: "recall", seq: 6, target: 3, by: "cid" });
    expect(await chat.redis.exists(chat.keys.reactors(conversation, 3))).toBe(0);
    expect(await chat.amendments.recall("bob", target)).toEqual(message);
    expect(await chat.rows(conversation)).toHaveLength(6);
    for (const refused of [
      () => chat.amendments.edit("cid", target, { text: "x" }),
      () => chat.amendments.react("dan", target, "👍", true),
      () => chat.amendments.recall("dan", target),
    ]) {
      await expect(refused()).rejects.toMatchObject({ code: "FORBIDDEN" });
    }
  });

  test.each([
    ["cid", 120_000, "ok"],
    ["cid", -1, "FORBIDDEN"],
    ["ann", -1, "ok"],
    ["bob", -1, "ok"],
    ["dan", 120_000, "FORBIDDEN"],
    ["eve", 120_000, "NOT_MEMBER"],
  ])("by %s, of cid's message, within %d ms: %s", async (user, recallMs, outcome) => {
    await using world = await setup();
    const { chat, target } = world;
    const amendments = createAmendments({ ...chat, recallMs });
    const result = await amendments.recall(user, target).then(
      () => "ok",
      ({ code }) => code,
    );
    expect(result).toBe(outcome);
  });
});

describe("reactions", () => {
  test("come and go, each an entry, and a repeat is none", async () => {
    await using world = await setup();
    const { chat, conversation, target } = world;
    const { react } = chat.amendments;
    await react("ann", target, "👍", true);
    await react("bob", target, "🎉", true);
    await react("dan", target, "👍", true);
    const message = await react("dan", target, "👍", true);
    expect(message.reactions).toEqual([
      { emoji: "👍", count: 2, users: ["ann", "dan"] },
      { emoji: "🎉", count: 1, users: ["bob"] },
    ]);
    expect((await lastRow(chat, conversation))[3]).toMatchObject({
      kind: "reaction",
      by: "dan",
      target: 2,
      emoji: "👍",
      on: true,
    });
    expect((await chat.events(conversation)).at(-1)).toMatchObject({
      type: "im.message.reacted",
      data: { reactions: message.reactions, own: ["👍"] },
    });
    await react("bob", target, "🎉", false);
    await react("ann", target, "👍", false);
    expect((await react("ann", target, "👍", false)).reactions).toEqual([{ emoji: "👍", count: 1, users: ["dan"] }]);
    expect(await react("dan", target, "👍", false)).not.toHaveProperty("reactions");
    expect(await chat.rows(conversation)).toHaveLength(2 + 6);
    expect(await seen(chat, "ann", conversation)).toEqual([await react("dan", target, "👍", false)]);
  });

  test("of many users are counted, and some of them named", async () => {
    await using world = await setup();
    const { chat, conversation, target } = world;
    const users = Array.from({ length: 15 }, (_, i) => `u${i}`);
    await chat.conversations.add("ann", conversation, users);
    await Promise.all(users.map((user) => chat.amendments.react(user, target, "👍", true)));
    const [message] = await seen(chat, "ann", conversation);
    expect(message!.reactions).toMatchObject([{ emoji: "👍", count: 15 }]);
    expect(message!.reactions![0]!.users).toHaveLength(LIMITS.reactionUsers);
    await Promise.all(users.map((user) => chat.amendments.react(user, target, "👍", false)));
    expect((await seen(chat, "ann", conversation))[0]).not.toHaveProperty("reactions");
  });

  test("are bounded per user and in kinds per message, and the refusal names the limit", async () => {
    await using world = await setup();
    const { chat, conversation, target } = world;
    for (let i = 0; i < LIMITS.reactionsPerUser; i++) await chat.amendments.react("ann", target, `a${i}`, true);
    await expect(chat.amendments.react("ann", target, "b", true)).rejects.toMatchObject({
      code: "INVALID",
      issues: [{ path: "emoji", message: expect.stringContaining(`${LIMITS.reactionsPerUser}`) }],
    });
    const users = ["bob", "cid", "dan", "u1", "u2"];
    await chat.conversations.add("ann", conversation, ["u1", "u2"]);
    for (let i = LIMITS.reactionsPerUser; i < LIMITS.reactionKinds; i++) {
      await chat.amendments.react(users[i % 5]!, target, `a${i}`, true);
    }
    await expect(chat.amendments.react("u2", target, "new", true)).rejects.toMatchObject({
      code: "INVALID",
      issues: [{ path: "emoji", message: expect.stringContaining(`${LIMITS.reactionKinds}`) }],
    });
    expect(await chat.amendments.react("u2", target, "a0", true)).toMatchObject({ seq: 2 });
  });

  test("of everybody at once lose nothing", async () => {
    await using world = await setup();
    const { chat, conversation, target } = world;
    const users = ["ann", "bob", "cid", "dan"];
    const acts = users.flatMap((user) =>
      ["👍", "🎉", "❤️"].map((emoji) => chat.amendments.react(user, target, emoji, true)),
    );
    await Promise.all(acts);
    const [message] = await seen(chat, "ann", conversation);
    expect(message!.reactions!.map(({ count }) => count)).toEqual([4, 4, 4]);
  });
});

describe("what nobody may amend", () => {
  test("a place that does not exist, an entry that is no message, a foreign conversation", async () => {
    await using world = await setup();
    const { chat, conversation } = world;
    const foreign = await chat.group("eve");
    for (const [target, code] of [
      [{ conversation, seq: 99 }, "NOT_FOUND"],
      [{ conversation, seq: 1 }, "NOT_FOUND"],
      [{ conversation: foreign, seq: 1 }, "NOT_MEMBER"],
      [{ conversation: "nothing", seq: 1 }, "NOT_MEMBER"],
    ] as const) {
      await expect(chat.amendments.react("ann", target, "👍", true)).rejects.toMatchObject({ code });
      await expect(chat.amendments.recall("ann", target)).rejects.toMatchObject({ code });
    }
  });

  test("a muted member neither edits nor reacts, and may still recall", async () => {
    await using world = await setup();
    const { chat, conversation, target } = world;
    await chat.conversations.update("ann", conversation, "cid", { mutedUntil: Date.now() + 60_000 });
    await expect(chat.amendments.edit("cid", target, { text: "x" })).rejects.toMatchObject({ code: "MUTED" });
    await expect(chat.amendments.react("cid", target, "👍", true)).rejects.toMatchObject({ code: "MUTED" });
    expect(await chat.amendments.recall("cid", target)).toMatchObject({ body: {} });
  });

  test("in a dissolved conversation nothing changes any more", async () => {
    await using world = await setup();
    const { chat, conversation, target } = world;
    await chat.conversations.dissolve("ann", conversation);
    for (const refused of [
      () => chat.amendments.edit("cid", target, { text: "x" }),
      () => chat.amendments.react("cid", target, "👍", true),
      () => chat.amendments.recall("cid", target),
    ]) {
      await expect(refused()).rejects.toMatchObject({ code: "FORBIDDEN" });
    }
  });
});

describe("deleted for oneself", () => {
  test("a message is gone from one's history, list and sync, and from nobody else's", async () => {
    await using world = await setup();
    const { chat, conversation } = world;
    for (let i = 0; i < 10; i++) await chat.send("cid", conversation, `${i}`);
    for (const seq of [4, 5, 6, 12]) await chat.hidden.add("dan", conversation, seq);
    const page = async (user: string, params: { after?: number; before?: number; limit: number }) => {
      const { messages, more } = await history(chat, user, { conversation, ...params });
      return [messages.map(({ seq }) => seq), more];
    };
    expect(await page("dan", { limit: 3 })).toEqual([[9, 10, 11], true]);
    expect(await page("dan", { limit: 3, before: 9 })).toEqual([[3, 7, 8], true]);
    expect(await page("dan", { limit: 3, before: 7 })).toEqual([[2, 3], false]);
    expect(await page("dan", { limit: 3, after: 3 })).toEqual([[7, 8, 9], true]);
    expect(await page("dan", { limit: 1, after: 11 })).toEqual([[], false]);
    expect(await page("ann", { limit: 3, before: 7 })).toEqual([[4, 5, 6], true]);
    const [own] = (await chat.list("dan")).conversations;
    expect(own).not.toHaveProperty("lastMessage");
    const { conversations } = await sync(chat, "dan");
    expect(conversations[0]).toMatchObject({ hidden: [4, 5, 6, 12] });
    expect((await sync(chat, "ann")).conversations[0]).not.toHaveProperty("hidden");
  });
});
