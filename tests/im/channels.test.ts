import { describe, expect, test } from "bun:test";
import { LIMITS } from "../../lib/im/index.ts";
import { type Chat, makeChat } from "../support/im.ts";
import { openTestStore } from "../support/redis.ts";

async function channel(chat: Chat, ...users: string[]): Promise<string> {
  const [owner, ...members] = users;
  return (await chat.conversations.create(owner!, { type: "channel", members })).conversation.id;
}

const idsOf = async (chat: Chat, user: string) =>
  (await chat.channels.of(user)).map(({ conversation }) => conversation).sort();

describe("a user's channels", () => {
  test("are those that the user is a member of, from the first moment to the last", async () => {
    await using store = await openTestStore("channel");
    const chat = makeChat(store);
    const first = await channel(chat, "ann", "bob");
    const second = await channel(chat, "ann");
    expect(await idsOf(chat, "bob")).toEqual([first]);
    await chat.conversations.add("ann", second, ["bob"]);
    expect(await idsOf(chat, "bob")).toEqual([first, second].sort());
    await chat.conversations.remove("ann", first, "bob");
    expect(await idsOf(chat, "bob")).toEqual([second]);
    await chat.conversations.remove("bob", second, "bob");
    expect(await idsOf(chat, "bob")).toEqual([]);
  });

  test("an older note, repeated, takes nobody in again and nobody out", async () => {
    await using store = await openTestStore("channel");
    const chat = makeChat(store);
    const id = await channel(chat, "ann", "bob");
    await chat.conversations.remove("ann", id, "bob");
    await chat.channels.note(["bob"], id, 0, true);
    expect(await idsOf(chat, "bob")).toEqual([]);
    await chat.conversations.add("ann", id, ["bob"]);
    await chat.channels.note(["bob"], id, 1, false);
    expect(await idsOf(chat, "bob")).toEqual([id]);
  });

  test("are checked against the members: a note that came too late shows nothing", async () => {
    await using store = await openTestStore("channel");
    const chat = makeChat(store);
    const id = await channel(chat, "ann");
    await chat.channels.note(["eve"], id, 99, true);
    expect(await chat.channels.heardBy("eve", "g1")).toEqual([]);
    expect(await chat.channels.heardBy("ann", "g1")).toEqual([id]);
    expect(await chat.channels.gatewaysOf(id)).toEqual(["g1"]);
  });
});

describe("a channel", () => {
  test("stands in its subscribers' lists by its own activity, page by page with the others", async () => {
    await using store = await openTestStore("channel");
    const chat = makeChat(store);
    const ids: string[] = [];
    for (let i = 0; i < 6; i++) {
      ids.unshift(i % 2 === 0 ? await channel(chat, "ann", "bob") : await chat.group("ann", "bob"));
      await Bun.sleep(2);
    }
    await chat.send("ann", ids[5]!, "news");
    ids.unshift(ids.pop()!);
    const seen: string[] = [];
    let before: string | undefined;
    do {
      const page = await chat.list("bob", 2, before);
      seen.push(...page.conversations.map(({ id }) => id));
      before = page.next;
    } while (before !== undefined);
    expect(seen).toEqual(ids);
    expect((await chat.list("bob", 1)).conversations[0]).toMatchObject({
      unread: 1,
      lastMessage: { body: { text: "news" } },
    });
  });

  test("shows its owner and admins and who asks, however many subscribe", async () => {
    await using store = await openTestStore("channel");
    const chat = makeChat(store);
    const id = await channel(chat, "ann", "bob", "cid", "dan");
    const shown = async (by: string) => (await chat.conversations.get(by, id)).members.map(({ user }) => user);
    expect(await shown("cid")).toEqual(["ann", "cid"]);
    await chat.conversations.update("ann", id, "bob", { role: "admin" });
    expect(await shown("cid")).toEqual(["ann", "bob", "cid"]);
    await chat.conversations.update("ann", id, "bob", { role: "owner" });
    await chat.conversations.update("bob", id, "ann", { role: "member" });
    expect(await shown("cid")).toEqual(["bob", "cid"]);
    await chat.conversations.update("bob", id, "ann", { role: "admin" });
    await chat.conversations.remove("bob", id, "ann");
    expect(await shown("dan")).toEqual(["bob", "dan"]);
    expect(await chat.conversations.get("dan", id)).toMatchObject({ memberCount: 3 });
  });

  test("has so many admins and no more", async () => {
    await using store = await openTestStore("channel");
    const chat = makeChat(store);
    const users = Array.from({ length: LIMITS.staffPerChannel }, (_, i) => `u${i}`);
    const id = await channel(chat, "ann", ...users.slice(0, 99));
    await chat.conversations.add("ann", id, users.slice(99));
    for (const user of users.slice(1)) await chat.conversations.update("ann", id, user, { role: "admin" });
    await expect(chat.conversations.update("ann", id, "u0", { role: "admin" })).rejects.toMatchObject({
      code: "INVALID",
    });
    await chat.conversations.remove("ann", id, "u1");
    await chat.conversations.update("ann", id, "u0", { role: "admin" });
  });
});
