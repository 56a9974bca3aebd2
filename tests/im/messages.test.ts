import { describe, expect, test } from "bun:test";
import { read } from "../../lib/im/index.ts";
import { makeChat } from "../support/im.ts";
import { digestOf } from "../support/queue.ts";
import { openTestStore } from "../support/redis.ts";
import { refusal } from "../support/refusal.ts";

describe("a committed send", () => {
  test("takes the next seq, and the timeline and the event hold the same message", async () => {
    await using store = await openTestStore("send");
    const chat = makeChat(store);
    const conversation = await chat.group("ann", "bob");

    const first = await chat.send("ann", conversation, "one");
    const second = await chat.send("bob", conversation, 'two "quoted" \u2028 \u0000 🜁');

    expect([first, second]).toMatchObject([{ value: { seq: 1 } }, { value: { seq: 2 } }]);
    const rows = await chat.rows(conversation);
    expect(rows.map(([seq, kind, ordinal]) => [seq, kind, ordinal])).toEqual([
      [1, "m", 1],
      [2, "m", 2],
    ]);
    expect(rows[1]![3]).toMatchObject({
      seq: 2,
      from: "bob",
      type: "text",
      body: { text: 'two "quoted" \u2028 \u0000 🜁' },
    });
    const events = await chat.events(conversation);
    expect(events.map(({ type, sequence }) => [type, sequence])).toEqual([
      ["im.conversation.created", ""],
      ["im.message.created", "1"],
      ["im.message.created", "2"],
    ]);
    expect(events[2]!.data).toEqual(rows[1]![3]);
  });

  test("repeated under its clientId is one message, and the repeat gets the first reply", async () => {
    await using store = await openTestStore("send");
    const chat = makeChat(store);
    const conversation = await chat.group("ann", "bob");

    const first = await chat.send("ann", conversation, "once", { clientId: "x" });
    const repeat = await chat.send("ann", conversation, "once", { clientId: "x" });

    if (!first.ok) throw first.error;
    expect(repeat).toEqual({ ok: true, value: { ...first.value, duplicate: true } });
    expect(await chat.rows(conversation)).toHaveLength(1);
  });

  test("with other content under the same clientId is a conflict; another sender's same clientId is not", async () => {
    await using store = await openTestStore("send");
    const chat = makeChat(store);
    const conversation = await chat.group("ann", "bob");
    await chat.send("ann", conversation, "once", { clientId: "x" });

    expect(await chat.send("ann", conversation, "other", { clientId: "x" })).toMatchObject({
      error: { code: "CONFLICT" },
    });
    expect(await chat.send("bob", conversation, "other", { clientId: "x" })).toMatchObject({ value: { seq: 2 } });
  });

  test("a hundred at once under one clientId are one message with one seq", async () => {
    await using store = await openTestStore("send");
    const chat = makeChat(store);
    const conversation = await chat.group("ann", "bob");

    const results = await Promise.all(
      Array.from({ length: 100 }, () => chat.send("ann", conversation, "same", { clientId: "x" })),
    );

    expect(new Set(results.map((result) => (result.ok ? result.value.seq : result.error.code)))).toEqual(new Set([1]));
    expect(results.filter((result) => result.ok && result.value.duplicate)).toHaveLength(99);
    expect(await chat.rows(conversation)).toHaveLength(1);
  });

  test("many senders at once give seq 1..n without a gap, each sender's messages in the order sent", async () => {
    await using store = await openTestStore("send");
    const chat = makeChat(store);
    const users = ["ann", "bob", "cid", "dan"];
    const conversation = await chat.group(...users);

    await Promise.all(Array.from({ length: 400 }, (_, i) => chat.send(users[i % 4]!, conversation, `${i}`)));

    const rows = await chat.rows(conversation);
    expect(rows.map(([seq]) => seq)).toEqual(Array.from({ length: 400 }, (_, i) => i + 1));
    for (const user of users) {
      const sent = rows
        .filter(([, , , record]) => record.from === user)
        .map(([, , , record]) => Number((record.body as { text: string }).text));
      expect(sent).toEqual(sent.toSorted((a, b) => a - b));
    }
  });

  test("moves its sender's read cursor: own messages are never unread", async () => {
    await using store = await openTestStore("send");
    const chat = makeChat(store);
    const conversation = await chat.group("ann", "bob");
    await chat.send("ann", conversation, "1");
    await chat.send("ann", conversation, "2");

    expect(await chat.conversations.state("ann", conversation)).toMatchObject({ read: 2, unread: 0 });
    expect(await chat.conversations.state("bob", conversation)).toMatchObject({ read: 0, unread: 2 });
  });
});

describe("a refused send writes nothing", () => {
  test.each([
    ["a stranger", "eve", {}, "NOT_MEMBER"],
    ["a reply to the future", "ann", { replyTo: 7 }, "INVALID"],
  ])("%s", async (_, by, more, code) => {
    await using store = await openTestStore("send");
    const chat = makeChat(store);
    const conversation = await chat.group("ann", "bob");

    expect(await chat.send(by, conversation, "x", more)).toMatchObject({ error: { code } });
    expect(await chat.rows(conversation)).toEqual([]);
  });

  test("a conversation that does not exist looks like one that is not ours", async () => {
    await using store = await openTestStore("send");
    const chat = makeChat(store);
    const conversation = await chat.group("ann", "bob");

    const toNothing = await chat.send("eve", "nothing", "x");
    const toForeign = await chat.send("eve", conversation, "x");
    expect(toNothing).toEqual(toForeign);
  });

  test("a muted member, until the mute ends", async () => {
    await using store = await openTestStore("send");
    const chat = makeChat(store);
    const conversation = await chat.group("ann", "bob");
    await chat.conversations.update("ann", conversation, "bob", { mutedUntil: Date.now() + 60_000 });
    expect(await chat.send("bob", conversation, "x")).toMatchObject({ error: { code: "MUTED" } });

    await chat.conversations.update("ann", conversation, "bob", { mutedUntil: Date.now() - 1 });
    expect(await chat.send("bob", conversation, "x")).toMatchObject({ ok: true });
  });

  test("one bad send of a batch leaves the others", async () => {
    await using store = await openTestStore("send");
    const chat = makeChat(store);
    const conversation = await chat.group("ann", "bob");

    const results = await Promise.all([
      chat.send("ann", conversation, "a"),
      chat.send("eve", conversation, "b"),
      chat.send("bob", conversation, "c"),
    ]);

    expect(results.map((result) => (result.ok ? result.value.seq : result.error.code))).toEqual([1, "NOT_MEMBER", 2]);
  });
});

test("a key of another type at any place of the commit: an error, and the keyspace stays as it was", async () => {
  await using store = await openTestStore("send");
  const chat = makeChat(store);
  const { redis, keys } = chat;
  const generation = Math.floor(Date.now() / 86_400_000);
  for (const plant of [
    (id: string) => keys.log(id),
    (id: string) => keys.members(id),
    (id: string) => keys.topic("im.events", keys.partitionOf(id)),
    (id: string) => keys.sent(keys.partitionOf(id), generation),
    (id: string) => keys.sent(keys.partitionOf(id), generation - 1),
  ]) {
    const conversation = await chat.group("ann", "bob");
    const key = plant(conversation);
    await redis.del(key);
    await redis.set(key, "another type");
    const before = await dump(store);

    expect(await chat.send("ann", conversation, "x")).toMatchObject({ error: { code: "INTERNAL" } });

    expect(await dump(store)).toEqual(before);
    await redis.del(key);
  }
});

async function dump({ redis, prefix }: Awaited<ReturnType<typeof openTestStore>>): Promise<Record<string, string>> {
  const found = await redis.commands.keys(`${prefix}:*`);
  const values = await Promise.all(found.map((key) => redis.commands.dumpBuffer(key)));
  return Object.fromEntries(found.map((key, i) => [key, values[i]!.toString("base64")]).sort());
}

test("while im.events is full nothing new is committed, a repeated send is answered, and room that is made is used", async () => {
  await using store = await openTestStore("im-full", { partitions: 1 });
  const { redis, keys } = store;
  let asked = 0;
  const makeRoom = async () => {
    asked += 1;
    if (asked === 2) await redis.commands.xtrim(keys.topic("im.events", 0), "MAXLEN", 0);
  };
  const chat = makeChat(store, undefined, { eventsMax: 3, makeRoom });
  const conversation = await chat.group("ann", "bob");
  await redis.commands.hset(keys.groups("im.events", 0), "archive", "ordered 1");
  const first = await chat.send("ann", conversation, "one", { clientId: "a" });
  await chat.send("ann", conversation, "two");
  const before = await digestOf(store);

  const refused = await chat.send("ann", conversation, "three", { clientId: "c" });
  expect(refused).toMatchObject({ ok: false, error: { code: "RATE_LIMITED", retryAfterMs: 1_000 } });
  expect(await digestOf(store)).toEqual(before);
  expect(await chat.send("ann", conversation, "one", { clientId: "a" })).toMatchObject({
    ...{ ok: true, value: { ...(first as { value: object }).value, duplicate: true } },
  });

  expect(await chat.send("ann", conversation, "three", { clientId: "c" })).toMatchObject({
    ok: true,
    value: { seq: 3 },
  });
});

test("while im.events is full no other change is committed either: it is refused, whole, until there is room", async () => {
  await using store = await openTestStore("im-full-others", { partitions: 1 });
  const { redis, keys } = store;
  const chat = makeChat(store, undefined, { eventsMax: 2 });
  const conversation = await chat.group("ann", "bob");
  await chat.send("ann", conversation, "one");
  await redis.commands.hset(keys.groups("im.events", 0), "archive", "ordered 1");
  const before = await digestOf(store);
  const target = { conversation, seq: 1 };
  const changes: Record<string, () => Promise<unknown>> = {
    create: () => chat.group("cat", "dan"),
    "add members": () => chat.conversations.add("ann", conversation, ["cat"]),
    rename: () => chat.conversations.change("ann", conversation, { title: "Team" }),
    edit: () => chat.amendments.edit("ann", target, { text: "uno" }),
    recall: () => chat.amendments.recall("ann", target),
    react: () => chat.amendments.react("bob", target, "👍", true),
    read: () => read(chat, "bob", conversation, 1),
  };
  for (const [name, change] of Object.entries(changes)) {
    expect([name, (await refusal(change())).code]).toEqual([name, "RATE_LIMITED"]);
    expect(await digestOf(store)).toEqual(before);
  }

  await redis.commands.xtrim(keys.topic("im.events", 0), "MAXLEN", 0);
  expect(await read(chat, "bob", conversation, 1)).toEqual({ read: 1, unread: 0 });
});
