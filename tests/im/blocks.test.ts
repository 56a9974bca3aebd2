import { describe, expect, test } from "bun:test";
import { read } from "../../lib/im/index.ts";
import { type Chat, makeChat } from "../support/im.ts";
import { openTestStore } from "../support/redis.ts";

const direct = async (chat: Chat, by: string, other: string) =>
  (await chat.conversations.create(by, { type: "direct", members: [other] })).conversation.id;
const codeOf = async (sent: ReturnType<Chat["send"]>) => {
  const result = await sent;
  return result.ok ? "ok" : result.error.code;
};

describe("a blocked user", () => {
  test("sends, edits and reacts in the direct conversation no more, until unblocked; the blocker does", async () => {
    await using store = await openTestStore("block");
    const chat = makeChat(store);
    const id = await direct(chat, "ann", "bob");
    await chat.send("bob", id, "one");
    await chat.blocks.add("ann", "bob");
    expect(await codeOf(chat.send("bob", id, "two"))).toBe("FORBIDDEN");
    const target = { conversation: id, seq: 1 };
    await expect(chat.amendments.edit("bob", target, { text: "x" })).rejects.toMatchObject({ code: "FORBIDDEN" });
    await expect(chat.amendments.react("bob", target, "👍", true)).rejects.toMatchObject({ code: "FORBIDDEN" });
    expect(await codeOf(chat.send("ann", id, "still mine"))).toBe("ok");
    expect(await read(chat, "bob", id, 2)).toEqual({ read: 2, unread: 0 });
    await chat.blocks.remove("ann", "bob");
    expect(await codeOf(chat.send("bob", id, "three"))).toBe("ok");
  });

  test("is one in groups like any other, and is not told of the block by what he sees", async () => {
    await using store = await openTestStore("block");
    const chat = makeChat(store);
    const id = await direct(chat, "ann", "bob");
    const before = await chat.conversations.get("bob", id);
    await chat.blocks.add("ann", "bob");
    expect(await chat.conversations.get("bob", id)).toEqual(before);
    const group = await chat.group("ann", "bob");
    expect(await codeOf(chat.send("bob", group, "hello"))).toBe("ok");
  });

  test("was blocked before the conversation began", async () => {
    await using store = await openTestStore("block");
    const chat = makeChat(store);
    await chat.blocks.add("ann", "bob");
    const id = await direct(chat, "bob", "ann");
    expect(await codeOf(chat.send("bob", id, "hello"))).toBe("FORBIDDEN");
    expect(await codeOf(chat.send("ann", id, "hello"))).toBe("ok");
  });

  test("gets nothing through from the moment of the answer, whatever is under way", async () => {
    await using store = await openTestStore("block");
    const chat = makeChat(store);
    for (let round = 0; round < 20; round++) {
      const [ann, bob] = [`ann${round}`, `bob${round}`];
      // Half of the conversations begin while the block is written.
      const isNew = round % 2 === 0;
      const id = isNew ? undefined : await direct(chat, bob, ann);
      let isBlocked = false;
      const blocking = chat.blocks.add(ann, bob).then(() => {
        isBlocked = true;
      });
      const late: string[] = [];
      const conversation = id ?? (await direct(chat, bob, ann));
      for (let i = 0; i < 30; i++) {
        const wasBlocked = isBlocked;
        if ((await codeOf(chat.send(bob, conversation, `${i}`))) === "ok" && wasBlocked) late.push(`${i}`);
      }
      await blocking;
      expect(late).toEqual([]);
      expect(await codeOf(chat.send(bob, conversation, "last"))).toBe("FORBIDDEN");
    }
  });
});

describe("the list", () => {
  test("names whom, and since when, once", async () => {
    await using store = await openTestStore("block");
    const chat = makeChat(store);
    const first = await chat.blocks.add("ann", "bob");
    await Bun.sleep(2);
    const second = await chat.blocks.add("ann", "cid");
    expect(await chat.blocks.add("ann", "bob")).toEqual(first);
    expect(await chat.blocks.list("ann")).toEqual([second, first]);
    await chat.blocks.remove("ann", "bob");
    await chat.blocks.remove("ann", "bob");
    expect(await chat.blocks.list("ann")).toEqual([second]);
    await expect(chat.blocks.add("ann", "ann")).rejects.toMatchObject({ code: "INVALID", issues: [{ path: "user" }] });
  });

  test("and what enforces it agree, however blocks and unblocks cross", async () => {
    await using store = await openTestStore("block");
    const chat = makeChat(store);
    const id = await direct(chat, "ann", "bob");
    for (let round = 0; round < 20; round++) {
      const acts = Array.from({ length: 6 }, (_, i) =>
        (i + round) % 2 === 0 ? chat.blocks.add("ann", "bob") : chat.blocks.remove("ann", "bob"),
      );
      await Promise.all(acts);
      const isListed = (await chat.blocks.list("ann")).length > 0;
      expect(await codeOf(chat.send("bob", id, `${round}`))).toBe(isListed ? "FORBIDDEN" : "ok");
    }
  });
});

test("a mute shows in the list until it ends", async () => {
  await using store = await openTestStore("mute");
  const chat = makeChat(store);
  const id = await chat.group("ann", "bob");
  const until = Date.now() + 60_000;
  await chat.mutes.set("bob", id, until);
  expect((await chat.list("bob")).conversations[0]).toMatchObject({ mutedUntil: until });
  expect((await chat.list("ann")).conversations[0]).not.toHaveProperty("mutedUntil");
  await chat.mutes.set("bob", id, 0);
  expect(await chat.mutes.of("bob", [id, "another"])).toEqual([undefined, undefined]);
});
