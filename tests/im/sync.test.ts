import { describe, expect, test } from "bun:test";
import { type Entry, history, read, sync } from "../../lib/im/index.ts";
import { type Chat, makeChat } from "../support/im.ts";
import { openTestStore } from "../support/redis.ts";

const texts = (entries: Entry[]) =>
  entries.map((entry) => (entry.kind === "message" ? entry.message.body.text : entry.kind));

async function conversationWith(chat: Chat, count: number): Promise<{ id: string; epoch: string }> {
  const id = await chat.group("ann", "bob");
  for (let i = 1; i <= count; i++) await chat.send("ann", id, `${i}`);
  const { epoch } = (await chat.conversations.state("ann", id))!;
  return { id, epoch };
}

describe("sync", () => {
  test("resumes behind a true cursor, without a hole", async () => {
    await using store = await openTestStore("sync");
    const chat = makeChat(store);
    const { id, epoch } = await conversationWith(chat, 3);
    await chat.conversations.add("ann", id, ["cid"]);
    const at2 = (await chat.rows(id))[1]![3].id as string;

    const { conversations } = await sync(chat, "bob", [{ conversation: id, epoch, seq: 2, id: at2 }]);

    expect(conversations).toMatchObject([{ conversation: id, verdict: "resumed", head: 4, unread: 3, more: false }]);
    expect(texts(conversations[0]!.entries)).toEqual(["3", "member"]);
    expect(conversations[0]!.entries.map(({ seq }) => seq)).toEqual([3, 4]);
  });

  test.each([
    ["of another epoch", (epoch: string) => ({ epoch: `${epoch}x`, seq: 1 })],
    ["from the future", (epoch: string) => ({ epoch, seq: 99 })],
    ["with another entry's id", (epoch: string) => ({ epoch, seq: 2, id: "somebody-elses" })],
  ])("a cursor %s is told to start over", async (_, cursor) => {
    await using store = await openTestStore("sync");
    const chat = makeChat(store);
    const { id, epoch } = await conversationWith(chat, 3);
    const { conversations } = await sync(chat, "bob", [{ conversation: id, ...cursor(epoch) }]);
    expect(conversations).toMatchObject([{ verdict: "reset" }]);
    expect(texts(conversations[0]!.entries)).toEqual(["1", "2", "3"]);
  });

  test("without cursors gives the user's conversations; strangers' are left out without a word", async () => {
    await using store = await openTestStore("sync");
    const chat = makeChat(store);
    const { id, epoch } = await conversationWith(chat, 1);
    expect((await sync(chat, "bob")).conversations.map(({ conversation }) => conversation)).toEqual([id]);
    expect(await sync(chat, "eve", [{ conversation: id, epoch, seq: 0 }])).toEqual({ conversations: [] });
  });

  test("long texts are cut by the reply's budget, and asking again gets the rest", async () => {
    await using store = await openTestStore("sync");
    const chat = makeChat(store);
    const { id, epoch } = await conversationWith(chat, 0);
    for (let i = 0; i < 20; i++) await chat.send("ann", id, "x".repeat(16_000));

    const seen: number[] = [];
    for (let more = true; more; ) {
      const { conversations } = await sync(chat, "bob", [{ conversation: id, epoch, seq: seen.at(-1) ?? 0 }]);
      seen.push(...conversations[0]!.entries.map(({ seq }) => seq));
      more = conversations[0]!.more;
    }
    expect(seen).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
  });
});

describe("history", () => {
  test("pages in both directions over messages only, and says whether there is more", async () => {
    await using store = await openTestStore("sync");
    const chat = makeChat(store);
    const { id } = await conversationWith(chat, 5);
    await chat.conversations.add("ann", id, ["cid"]);
    await chat.send("ann", id, "6");
    const page = async (params: { after?: number; before?: number; limit: number }) => {
      const { messages, more } = await history(chat, "bob", { conversation: id, ...params });
      return [messages.map(({ seq }) => seq), more];
    };

    expect(await page({ limit: 3 })).toEqual([[4, 5, 7], true]);
    expect(await page({ limit: 3, before: 4 })).toEqual([[1, 2, 3], false]);
    expect(await page({ limit: 3, after: 0 })).toEqual([[1, 2, 3], true]);
    expect(await page({ limit: 3, after: 3 })).toEqual([[4, 5, 7], false]);
    expect(await page({ limit: 3, after: 7 })).toEqual([[], false]);
    expect(await page({ limit: 3, before: 1 })).toEqual([[], false]);
  });

  test("outsiders get NOT_MEMBER", async () => {
    await using store = await openTestStore("sync");
    const chat = makeChat(store);
    const { id } = await conversationWith(chat, 1);
    await expect(history(chat, "eve", { conversation: id, limit: 1 })).rejects.toMatchObject({ code: "NOT_MEMBER" });
  });
});

describe("read", () => {
  test("only moves forward, and counts unread from ordinals", async () => {
    await using store = await openTestStore("sync");
    const chat = makeChat(store);
    const { id } = await conversationWith(chat, 2);
    await chat.conversations.add("ann", id, ["cid"]);
    await chat.send("ann", id, "4");

    expect(await read(chat, "bob", id, 3)).toEqual({ read: 3, unread: 1 });
    expect(await read(chat, "bob", id, 1)).toEqual({ read: 3, unread: 1 });
    expect(await read(chat, "bob", id, 4)).toEqual({ read: 4, unread: 0 });
    expect((await chat.events(id)).filter(({ type }) => type === "im.read").map(({ data }) => data)).toEqual([
      { conversation: id, user: "bob", seq: 3 },
      { conversation: id, user: "bob", seq: 4 },
    ]);
  });

  test("beyond the head is refused and names the limit; outsiders get NOT_MEMBER", async () => {
    await using store = await openTestStore("sync");
    const chat = makeChat(store);
    const { id } = await conversationWith(chat, 2);
    await expect(read(chat, "bob", id, 3)).rejects.toMatchObject({
      code: "INVALID",
      issues: [{ path: "seq", message: "must be at most the head, 2" }],
    });
    await expect(read(chat, "eve", id, 1)).rejects.toMatchObject({ code: "NOT_MEMBER" });
  });
});
