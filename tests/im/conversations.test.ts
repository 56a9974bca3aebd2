import { describe, expect, test } from "bun:test";
import { makeChat } from "../support/im.ts";
import { openTestStore } from "../support/redis.ts";

describe("create", () => {
  test("the same id and content again is the same conversation, other content a conflict", async () => {
    await using store = await openTestStore("conv");
    const { conversations } = makeChat(store);
    const params = { id: "team", type: "group", members: ["bob", "cid"], title: 'A "team"' } as const;

    const first = await conversations.create("ann", params);
    const again = await conversations.create("ann", { ...params, members: ["cid", "bob", "ann"] });

    expect(first).toMatchObject({
      created: true,
      conversation: { id: "team", title: 'A "team"', head: 0, memberCount: 3 },
    });
    expect(again).toEqual({ ...first, created: false });
    await expect(conversations.create("ann", { ...params, title: "other" })).rejects.toMatchObject({
      code: "CONFLICT",
    });
    await expect(conversations.create("eve", params)).rejects.toMatchObject({ code: "CONFLICT" });
  });

  test("the direct conversation of a pair is one, whoever asks", async () => {
    await using store = await openTestStore("conv");
    const { conversations } = makeChat(store);

    const byAnn = await conversations.create("ann", { type: "direct", members: ["bob"] });
    const byBob = await conversations.create("bob", { type: "direct", members: ["ann"] });

    expect(byBob).toEqual({ ...byAnn, created: false });
    expect(byAnn.conversation.members).toEqual([
      { user: "ann", role: "member" },
      { user: "bob", role: "member" },
    ]);
  });

  test.each([
    ["no other member", { type: "direct", members: [] }, "members"],
    ["oneself alone", { type: "direct", members: ["ann"] }, "members"],
    ["two others", { type: "direct", members: ["bob", "cid"] }, "members"],
    ["an own id", { type: "direct", members: ["bob"], id: "mine" }, "id"],
    ["a title", { type: "direct", members: ["bob"], title: "us" }, "title"],
  ] as const)("a direct conversation with %s names the field", async (_, params, path) => {
    await using store = await openTestStore("conv");
    const { conversations } = makeChat(store);
    await expect(conversations.create("ann", params)).rejects.toMatchObject({ code: "INVALID", issues: [{ path }] });
  });

  test("ids like those of Object's prototype are ids like any other", async () => {
    await using store = await openTestStore("conv");
    const chat = makeChat(store);
    for (const id of ["__proto__", "constructor", "toString", "0", "007", "-1"]) {
      await chat.conversations.create("__proto__", { id, type: "group", members: ["constructor"] });
      expect(await chat.send("constructor", id, "hello")).toMatchObject({ value: { seq: 1 } });
    }
    expect((await chat.list("__proto__", 10)).conversations).toHaveLength(6);
  });
});

describe("members", () => {
  test("adding is one timeline entry that names who was new; adding again is none", async () => {
    await using store = await openTestStore("conv");
    const chat = makeChat(store);
    const conversation = await chat.group("ann", "bob");

    await chat.conversations.add("bob", conversation, ["bob", "cid", "dan"]);
    await chat.conversations.add("ann", conversation, ["cid"]);

    const rows = await chat.rows(conversation);
    expect(rows).toHaveLength(1);
    expect(rows[0]).toMatchObject([
      1,
      "member",
      0,
      { kind: "member", seq: 1, by: "bob", action: "added", users: ["cid", "dan"] },
    ]);
    expect((await chat.events(conversation)).at(-1)).toMatchObject({
      type: "im.member.added",
      sequence: "1",
      data: { view: { memberCount: 4 } },
    });
  });

  test("who was added reads all and has nothing unread", async () => {
    await using store = await openTestStore("conv");
    const chat = makeChat(store);
    const conversation = await chat.group("ann", "bob");
    await chat.send("ann", conversation, "before");
    await chat.conversations.add("ann", conversation, ["cid"]);
    expect(await chat.conversations.state("cid", conversation)).toMatchObject({ unread: 0 });
    await chat.send("ann", conversation, "after");
    expect(await chat.conversations.state("cid", conversation)).toMatchObject({ unread: 1 });
  });

  test("who left or was removed can neither send nor look", async () => {
    await using store = await openTestStore("conv");
    const chat = makeChat(store);
    const conversation = await chat.group("ann", "bob", "cid");
    await chat.conversations.remove("ann", conversation, "bob");
    await chat.conversations.remove("cid", conversation, "cid");

    expect((await chat.rows(conversation)).map(([, , , entry]) => [entry.action, entry.users])).toEqual([
      ["removed", ["bob"]],
      ["left", ["cid"]],
    ]);
    for (const user of ["bob", "cid"]) {
      expect(await chat.send(user, conversation, "x")).toMatchObject({ error: { code: "NOT_MEMBER" } });
      await expect(chat.conversations.get(user, conversation)).rejects.toMatchObject({ code: "NOT_MEMBER" });
    }
  });

  test("giving ownership away is one entry: there is one owner before and after, and the giver is an admin", async () => {
    await using store = await openTestStore("conv");
    const chat = makeChat(store);
    const id = await chat.group("ann", "bob", "cid");
    await chat.conversations.update("ann", id, "bob", { mutedUntil: Date.now() + 60_000 });
    const { members } = await chat.conversations.update("ann", id, "bob", { role: "owner" });
    expect(members).toEqual([
      { user: "bob", role: "owner" },
      { user: "ann", role: "admin" },
      { user: "cid", role: "member" },
    ]);
    expect((await chat.rows(id)).at(-1)?.[3]).toMatchObject({
      action: "updated",
      users: ["bob"],
      role: "owner",
      by: "ann",
    });
    await expect(chat.conversations.update("ann", id, "cid", { role: "owner" })).rejects.toMatchObject({
      code: "FORBIDDEN",
    });
    await chat.conversations.remove("ann", id, "ann");
  });

  test("where joining is open a stranger takes himself in, and nobody else; where it is not, nothing is there", async () => {
    await using store = await openTestStore("conv");
    const chat = makeChat(store);
    const { conversation } = await chat.conversations.create("ann", { type: "group", members: [], join: "open" });
    const { id } = conversation;
    const refused = (by: string, users: string[]) =>
      expect(chat.conversations.add(by, id, users)).rejects.toMatchObject({ code: "NOT_MEMBER" });
    await refused("eve", ["bob"]);
    await refused("eve", ["eve", "bob"]);
    expect(await chat.conversations.add("eve", id, ["eve"])).toMatchObject({ memberCount: 2, join: "open" });
    expect((await chat.rows(id))[0]?.[3]).toMatchObject({ by: "eve", action: "added", users: ["eve"] });
    await chat.conversations.change("ann", id, { join: "invited" });
    await refused("mallory", ["mallory"]);
    expect((await chat.rows(id)).at(-1)?.[3]).toMatchObject({ kind: "settings", join: "invited" });
  });

  test("a direct conversation keeps its two members", async () => {
    await using store = await openTestStore("conv");
    const { conversations } = makeChat(store);
    const { id } = (await conversations.create("ann", { type: "direct", members: ["bob"] })).conversation;
    await expect(conversations.add("ann", id, ["cid"])).rejects.toMatchObject({ code: "FORBIDDEN" });
    await expect(conversations.remove("ann", id, "bob")).rejects.toMatchObject({ code: "FORBIDDEN" });
  });

  test("a dissolved conversation can be read and never written", async () => {
    await using store = await openTestStore("conv");
    const chat = makeChat(store);
    const id = await chat.group("ann", "bob");
    await chat.send("ann", id, "last words");
    await chat.conversations.dissolve("ann", id);
    expect(await chat.send("ann", id, "x")).toMatchObject({ error: { code: "FORBIDDEN" } });
    await expect(chat.conversations.add("ann", id, ["cid"])).rejects.toMatchObject({ code: "FORBIDDEN" });
    expect(await chat.conversations.get("bob", id)).toMatchObject({ head: 2 });
  });
});

describe("list", () => {
  test("newest activity first, with the last message and unread, page by page", async () => {
    await using store = await openTestStore("conv");
    const chat = makeChat(store);
    const ids: string[] = [];
    for (let i = 0; i < 5; i++) {
      const id = await chat.group("ann", "bob");
      await chat.send("bob", id, `hello ${i}`);
      await chat.inbox.touch(["ann"], id, Date.now());
      ids.unshift(id);
      await Bun.sleep(2);
    }

    const first = await chat.list("ann", 3);
    const second = await chat.list("ann", 3, first.next);

    expect([...first.conversations, ...second.conversations].map(({ id }) => id)).toEqual(ids);
    expect(first.conversations[0]).toMatchObject({
      unread: 1,
      read: 0,
      lastMessage: { from: "bob", body: { text: "hello 4" } },
    });
    expect(second.next).toBeUndefined();
  });
});
