import { describe, expect, test } from "bun:test";
import { createNotifier, createRouteCache, delivered, LIMITS, read, receipts } from "../../lib/im/index.ts";
import { makeChat } from "../support/im.ts";
import { openTestStore } from "../support/redis.ts";

async function setup() {
  const store = await openTestStore("receipts");
  const chat = makeChat(store);
  const notifier = createNotifier(
    chat.redis,
    chat.keys,
    createRouteCache(chat.redis, chat.keys, () => undefined),
  );
  return { chat: { ...chat, notifier }, [Symbol.asyncDispose]: () => store[Symbol.asyncDispose]() };
}

describe("delivered", () => {
  test("only moves forward, and what was read has arrived", async () => {
    await using world = await setup();
    const { chat } = world;
    const id = await chat.group("ann", "bob");
    for (let i = 0; i < 5; i++) await chat.send("ann", id, `${i}`);
    expect(await delivered(chat, "bob", id, 3)).toEqual({ delivered: 3 });
    expect(await delivered(chat, "bob", id, 2)).toEqual({ delivered: 3 });
    await read(chat, "bob", id, 4);
    expect(await delivered(chat, "bob", id, 3)).toEqual({ delivered: 4 });
    expect(await delivered(chat, "bob", id, 5)).toEqual({ delivered: 5 });
    expect(await receipts(chat, "ann", id)).toEqual({
      receipts: [
        { user: "ann", delivered: 5, read: 5 },
        { user: "bob", delivered: 5, read: 4 },
      ],
    });
    expect((await chat.rows(id)).length).toBe(5);
  });

  test("beyond the head is refused and names the limit; outsiders get NOT_MEMBER", async () => {
    await using world = await setup();
    const { chat } = world;
    const id = await chat.group("ann", "bob");
    await expect(delivered(chat, "bob", id, 1)).rejects.toMatchObject({ code: "INVALID", issues: [{ path: "seq" }] });
    await expect(delivered(chat, "eve", id, 1)).rejects.toMatchObject({ code: "NOT_MEMBER" });
    await expect(receipts(chat, "eve", id)).rejects.toMatchObject({ code: "NOT_MEMBER" });
  });

  test("is kept for few members only", async () => {
    await using world = await setup();
    const { chat } = world;
    const id = await chat.group("ann", ...Array.from({ length: LIMITS.receiptMembers - 1 }, (_, i) => `u${i}`));
    await chat.send("ann", id, "1");
    await delivered(chat, "u1", id, 1);
    expect((await receipts(chat, "ann", id)).receipts).toHaveLength(LIMITS.receiptMembers);
    await chat.conversations.add("ann", id, ["one-more"]);
    expect(await delivered(chat, "u2", id, 2)).toEqual({ delivered: 2 });
    expect(await chat.redis.hgetall(chat.keys.delivered(id))).toEqual({ u1: "1" });
    expect(await receipts(chat, "ann", id)).toEqual({ receipts: [] });
  });
});
