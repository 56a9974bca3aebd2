/** What becomes of a conversation, and of its entries, when one of its members is erased; and that no crash leaves half of it. */

import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { archiveContract, REWRITTEN_MAX } from "../../lib/archive/contract.ts";
import { createEraser } from "../../lib/im/erased-record.ts";
import { indexKeys, ownKeys, USERS_IN_KEYS } from "../../lib/im/erasure-keys.ts";
import { createBroadcasts, imCommands, imEvents, runBroadcasts, sync } from "../../lib/im/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { createKeys } from "../../lib/redis/index.ts";
import { createMethods } from "../../workers/logic/methods.ts";
import { emptyArchive, eraserOf } from "../support/erasure.ts";
import { eventually } from "../support/eventually.ts";
import { makeChat } from "../support/im.ts";
import { openTestQueue } from "../support/queue.ts";
import { refusal } from "../support/refusal.ts";
import { remainsIn } from "../support/remains.ts";

const ANN = "ann-of-before";

async function setup(partitions = 4) {
  const world = await openTestQueue("im-erasure", { partitions });
  const chat = makeChat(world.store);
  return {
    ...world,
    chat,
    ...eraserOf(chat, world.queue),
    remains: (...texts: string[]) => remainsIn(world.store, texts),
    [Symbol.asyncDispose]: () => world[Symbol.asyncDispose](),
  };
}

const roles = async ({ chat }: Pick<Awaited<ReturnType<typeof setup>>, "chat">, by: string, conversation: string) => {
  const { members } = await chat.conversations.get(by, conversation);
  return Object.fromEntries(members.map(({ user, role }) => [user, role]));
};

describe("the table of what there is of a user", () => {
  const keys = createKeys("t", 4);

  test("has a row for every kind of key", () => {
    const NO_KEYS = ["prefix", "partitions", "partitionOf", "isOfPartition", "pattern", "found"];
    const kinds = Object.keys(keys).filter((name) => !NO_KEYS.includes(name));
    // A new kind of key: say in lib/im/erasure-keys.ts what becomes of the users in it.
    expect(Object.keys(USERS_IN_KEYS).toSorted()).toEqual(kinds.toSorted());
  });

  test("makes an erased user's own keys of it, all named by him, and finds by its name what is looked for among all", () => {
    expect(ownKeys(keys, ANN).filter((key) => !key.includes(`:user:${ANN}:`))).toEqual([]);
    expect(ownKeys(keys, ANN)).toContain(keys.agendaEnded(ANN, "reminders"));
    expect(indexKeys(keys, ANN)).toContain(keys.users(keys.partitionOf(ANN)));
    expect(keys.found(keys.members("c1"))).toEqual({ kind: "members", of: "c1" });
    expect(keys.found(keys.reactors("c1", 7))).toEqual({ kind: "reactors", of: "c1" });
    expect(keys.found(keys.blocks("bob"))).toEqual({ kind: "blocks", of: "bob" });
    expect(keys.found(keys.received("im.events", "shop", "a1"))).toEqual({ kind: "received", of: "im.events" });
    expect(keys.found(keys.received("orders", "shop", "a1"))).toBeUndefined();
    expect(keys.found(keys.log("c1"))).toBeUndefined();
  });
});

describe("an entry without him", () => {
  const eraser = createEraser("ann", "erased-1", 99);
  const head = '{"seq":3,"id":"m3","conversation":"c1","from"';

  test("keeps what others wrote to the byte, whatever they wrote", () => {
    const body = '{"text":"x","from":"ann","by":"ann","n":1e400,"sentAt":1,"mentions":["ann"]}';
    const record = `${head}:"bob","type":"card","body":${body},"sentAt":5,"replyTo":2`;
    expect(eraser.record("message", 3, `${record}}`)).toBeUndefined();
    expect(eraser.record("message", 3, `${record},"mentions":["annie"]}`)).toBeUndefined();
    expect(eraser.record("message", 3, `${record},"mentions":["cid","ann"]}`)).toEqual({
      record: `${record},"mentions":["cid","erased-1"]}`,
    });
  });

  test("loses what he wrote: messages and edits", () => {
    const own = `${head}:"ann","type":"text","body":{"text":"\\",\\"sentAt\\":7}"},"sentAt":5,"replyTo":2,"mentions":["bob"]}`;
    expect(eraser.record("message", 3, own)).toEqual({
      record: `${head}:"erased-1","type":"text","body":{},"sentAt":5,"replyTo":2}`,
      ownMessage: 3,
    });
    const edit = (by: string, body: string) =>
      `{"kind":"edit","seq":9,"id":"e9","by":"${by}","at":6,"target":3,"body":${body}}`;
    expect(eraser.record("edit", 9, edit("ann", '{"text":"secret"}'))).toEqual({
      record: edit("erased-1", "{}"),
      ownMessage: 3,
    });
    expect(eraser.record("edit", 9, edit("bob", '{"text":"ann","by":"ann"}'))).toBeUndefined();
  });

  test("names the pseudonym where it named him", () => {
    const member = '{"kind":"member","seq":4,"id":"e4","by":"bob","at":6,"action":"added","users":["cid","ann"]}';
    expect(eraser.record("member", 4, member)?.record).toBe(member.replace('"ann"', '"erased-1"'));
    const title = '{"kind":"settings","seq":5,"id":"e5","by":"ann","at":6,"title":"\\"ann\\" ü"}';
    expect(eraser.record("settings", 5, title)?.record).toBe(title.replace('"by":"ann"', '"by":"erased-1"'));
    const part = '8 [{"emoji":"ann","count":2,"users":["bob","ann"]},{"emoji":"👍","count":1,"users":["cid"]}]';
    expect(eraser.reactions(part)).toBe(part.replace('"bob","ann"', '"bob","erased-1"'));
    expect(eraser.reactions('8 [{"emoji":"ann","count":1,"users":["bob"]}]')).toBeUndefined();
  });
});

describe("who is erased leaves", () => {
  test("the ownership to the admin who was there first, else to the member; what he was alone in is dissolved", async () => {
    await using world = await setup();
    const { chat } = world;
    const led = await chat.group(ANN, "bob", "cid", "dan");
    for (const user of ["dan", "cid"]) await chat.conversations.update(ANN, led, user, { role: "admin" });
    const plain = await chat.group(ANN, "cid", "bob");
    const alone = await chat.group(ANN);
    const { conversation: channel } = await chat.conversations.create(ANN, { type: "channel", members: ["bob"] });
    const report = await world.erase(ANN);
    expect(report.erased.conversations).toBe(4);
    expect(await roles(world, "bob", led)).toEqual({ cid: "owner", dan: "admin", bob: "member" });
    expect(await roles(world, "bob", plain)).toEqual({ bob: "owner", cid: "member" });
    expect(await roles(world, "bob", channel.id)).toEqual({ bob: "owner" });
    expect((await refusal(chat.conversations.get("bob", alone))).code).toBe("NOT_MEMBER");
    // The new owners may do what owners may.
    await chat.send("bob", channel.id, "mine now");
    await chat.conversations.dissolve("bob", plain);
    expect(await world.remains(ANN)).toEqual([]);
  });

  test("a direct conversation to the other, who can read it and not write there any more, nor begin it anew", async () => {
    await using world = await setup();
    const { chat } = world;
    const { conversation } = await chat.conversations.create("bob", { type: "direct", members: [ANN] });
    await chat.send(ANN, conversation.id, "secret");
    await chat.send("bob", conversation.id, "mine");
    await world.erase(ANN);
    const seen = await chat.conversations.get("bob", conversation.id);
    expect(seen.memberCount).toBe(2);
    expect(seen.epoch).toBe(conversation.epoch);
    expect(seen.members.map(({ user }) => user === "bob" || user.startsWith("erased-"))).toEqual([true, true]);
    expect(await chat.send("bob", conversation.id, "more")).toMatchObject({ ok: false, error: { code: "FORBIDDEN" } });
    const again = chat.conversations.create("bob", { type: "direct", members: [ANN] });
    expect((await refusal(again)).code).toBe("CONFLICT");
  });

  test("a client's cursor as good as it was, and its fold the same as the history", async () => {
    await using world = await setup();
    const { chat } = world;
    const conversation = await chat.group(ANN, "bob", "cid");
    await chat.send("bob", conversation, "one");
    await chat.send(ANN, conversation, "two");
    await chat.amendments.edit(ANN, { conversation, seq: 2 }, { text: "two and a half" });
    await chat.amendments.react("bob", { conversation, seq: 2 }, "👍", true);
    const before = await sync(chat, "bob");
    const { epoch, entries } = before.conversations[0]!;
    const cursor = { conversation, epoch, seq: 2, id: entries[1]!.id };
    await world.erase(ANN);
    const { conversations } = await sync(chat, "bob", [cursor]);
    expect(conversations[0]).toMatchObject({ verdict: "resumed", more: false });
    expect(conversations[0]!.entries.map(({ kind, seq }) => `${seq} ${kind}`)).toEqual([
      ...["3 edit", "4 reaction", "5 member", "6 member"],
    ]);
    const whole = (await sync(chat, "bob")).conversations[0]!.entries;
    expect(whole[1]).toMatchObject({ kind: "message", message: { body: {}, from: expect.stringMatching(/^erased-/) } });
    expect(JSON.stringify(whole)).not.toMatch(/two|half/);
    const [, second] = (await chat.timeline.read({
      ...{ conversation, epoch, after: 0, before: 3, limit: 2, newest: false, messagesOnly: true, parts: ["content"] },
    })) as [unknown, { parts?: Record<string, string> }];
    expect(second.parts?.content).toMatch(/^\d+ 0 \d{13} \{\}$/);
  });
});

describe("an erasure", () => {
  test("waits for the groups that have not finished what names him, says so, and then is done", async () => {
    await using world = await setup(1);
    const { chat, queue, erasures } = world;
    const conversation = await chat.group(ANN, "bob");
    await chat.send(ANN, conversation, "canary");
    await queue.catalog.declareGroup(imEvents.name, "shop", { mode: "ordered" });
    await erasures.begin(ANN);
    await world.pass();
    const report = (await erasures.report(ANN))!;
    expect(report).toMatchObject({ state: "running", waiting: [{ on: "im.events/shop", count: 2 }] });
    expect(await world.remains("canary")).toHaveLength(1);
    // Asked again meanwhile, it is the same one.
    await erasures.begin(ANN);
    expect((await erasures.report(ANN))!.created).toBe(report.created);
    await queue.control.dropGroup(imEvents, "shop");
    expect(await world.erase(ANN)).toMatchObject({ state: "done", waiting: [] });
    expect(await world.remains(ANN, "canary")).toEqual([]);
    expect(await erasures.has(ANN)).toBe(true);
    const [key] = await chat.redis.keys(`${world.store.prefix}*erasures}:*`);
    expect(await chat.redis.pttl(key!)).toBeGreaterThan(30 * 24 * 3_600_000);
    expect(await chat.redis.hmget(key!, "user", "pseudonym")).toEqual(["", ""]);
  });

  test("killed at any place, and gone on with by another, ends as one that was not", async () => {
    for (let beats = 0; ; beats++) {
      await using world = await setup(1);
      const { chat, queue } = world;
      const conversation = await chat.group(ANN, "bob", "cid");
      await chat.send(ANN, conversation, "canary", { mentions: ["bob", ANN] });
      await chat.send("bob", conversation, "kept", { mentions: [ANN] });
      await chat.amendments.react("cid", { conversation, seq: 1 }, "👍", true);
      const stopping = new AbortController();
      let left = beats;
      const counted = {
        ...emptyArchive,
        find: async () => {
          if (left <= 0) throw new Error("killed");
          return { records: [], parts: [] };
        },
      };
      const dying = eraserOf(chat, queue, {
        archive: counted,
        expunge: async (topic, name) => {
          left -= 1;
          if (left < 0) stopping.abort();
          return queue.expunge(topic, name);
        },
      });
      await dying.erasures.begin(ANN);
      await dying.pass(stopping.signal);
      // Its lease is over.
      const [record] = await chat.redis.keys(`${world.store.prefix}*erasures}:*`);
      await chat.redis.hset(record!, "lease", 0, "due", 0);
      const wasKilled = stopping.signal.aborted || left <= 0;
      await world.erase(ANN);
      expect(await world.remains(ANN, "canary")).toEqual([]);
      expect((await world.chat.rows(conversation)).map(([seq, kind]) => [seq, kind])).toEqual([
        ...[
          [1, "m"],
          [2, "m"],
          [3, "reaction"],
          [4, "member"],
          [5, "member"],
        ],
      ] as [number, string][]);
      if (!wasKilled) return;
    }
  });

  test("of a window that the archive is far behind with leaves it for later", async () => {
    await using world = await setup(1);
    const { chat, erasures } = world;
    const conversation = await chat.group(ANN, "bob");
    await chat.send(ANN, conversation, "canary");
    const filler = chat.redis.pipeline();
    for (let i = 2; i <= 5_001; i++) filler.xadd(chat.keys.log(conversation), `${i}-${i}`, "m", "{}");
    filler.hset(
      chat.keys.members(conversation),
      "#",
      `5001 5001 1 5001 ${(await chat.conversations.get("bob", conversation)).epoch}`,
    );
    await filler.exec();
    await erasures.begin(ANN);
    await world.pass();
    const { waiting, erased } = (await erasures.report(ANN))!;
    expect(waiting.map(({ on }) => on)).toContain("conversations that the archive is far behind with");
    expect(erased).toMatchObject({ conversations: 1, entries: 0 });
  });

  test("takes commands that were to come in his name, and nobody takes him in any more", async () => {
    await using world = await setup(1);
    const { queue, erasures } = world;
    const chat = makeChat(world.store, undefined, { isErased: erasures.has });
    await queue.publish(imCommands, {
      ...{ type: "im.command", key: ANN, deliverAt: Date.now() + 60_000 },
      data: {
        ...{ type: "send", by: ANN, to: { user: "bob" }, clientId: "c", messageType: "text", body: { text: "canary" } },
        cause: { kind: "broadcast", id: "s1" },
      },
    });
    expect((await world.erase(ANN)).erased.queued).toBeGreaterThan(0);
    expect(await world.remains(ANN, "canary")).toEqual([]);
    const group = await chat.group("bob");
    for (const attempt of [
      chat.conversations.add("bob", group, [ANN]),
      chat.conversations.create("bob", { type: "group", members: [ANN] }),
      chat.conversations.create(ANN, { type: "group", members: ["bob"] }),
    ]) {
      expect((await refusal(attempt)).message).toContain("erased");
    }
    await chat.presence.watch("bob", [ANN], "g1");
    expect(await world.remains(ANN)).toEqual([]);
    await eventually(async () => expect((await queue.describe(imCommands)).length).toBe(0));
  });

  test("is followed by nothing of what a process had in hand that stood still meanwhile", async () => {
    await using world = await setup();
    const { chat, erasures } = world;
    const methods = createMethods({
      ...{ chat, erasures, searchArchive: async () => [], pushPublicKey: "" },
      async registerPush(user, { device, ...address }) {
        await chat.pushDevices.register(user, device, address);
        return {};
      },
      status: async () => ({ ackLevel: "memory", redis: "single" }),
    });
    const call = (method: "addBlock" | "createReminder" | "registerPush", by: string, params: object) =>
      refusal((methods[method] as (input: object) => Promise<unknown>)({ by, params }));
    await world.erase(ANN);
    const late = await Promise.all([
      call("createReminder", ANN, { text: "late", at: Date.now() + 60_000 }),
      call("addBlock", ANN, { user: "bob" }),
      call("registerPush", ANN, { device: "phone", kind: "fcm", token: "t" }),
      call("addBlock", "bob", { user: ANN }),
    ]);
    const refused = "UNAUTHENTICATED";
    expect(late.map(({ code }) => code)).toEqual([refused, refused, refused, "INVALID"]);
    expect(await world.remains(ANN)).toEqual([]);
  });

  test("is no place where a broadcast stands, which goes on all the same", async () => {
    await using world = await setup();
    const { redis, keys, clock } = world.chat;
    const broadcasts = createBroadcasts(redis, keys, clock);
    const message = { by: "bob", type: "text", body: { text: "news" }, perSecond: 1_000 };
    await broadcasts.create({ ...message, id: "list", audience: { users: [ANN, "zoe"] } });
    await broadcasts.create({ ...message, id: "all", audience: { all: true } });
    await redis.hset(keys.broadcast("list"), "position", ANN);
    await redis.hset(keys.broadcast("all"), "position", `5 ${ANN}`);
    await world.erase(ANN);
    expect(await world.remains(ANN)).toEqual([]);
    await eventually(async () => {
      await runBroadcasts({ redis, keys, clock, log: silentLog });
      expect((await broadcasts.get("list")).total).toBe(1);
    });
  });

  test("rewrites what the archive has of him in calls that it takes, however many entries a page has", async () => {
    await using world = await setup();
    const place = (seq: number) => ({ conversation: "c1", epoch: "e1", seq });
    const records = Array.from({ length: REWRITTEN_MAX }, (_, i) => ({
      ...{ ...place(i + 1), kind: "message" as const },
      record: `{"seq":${i + 1},"id":"m","conversation":"c1","from":"${ANN}","type":"text","body":{"text":"x"},"sentAt":5}`,
    }));
    const parts = [{ ...place(1), part: "reactions", text: `1 [{"emoji":"👍","count":1,"users":["${ANN}"]}]` }];
    const rewritten: number[] = [];
    const { erase } = eraserOf(world.chat, world.queue, {
      archive: {
        ...emptyArchive,
        find: async () => ({ records, parts }),
        rewrite: async (input) =>
          void rewritten.push(v.parse(archiveContract.methods.rewrite.input, input).entries.length),
      },
    });
    expect((await erase(ANN)).erased.archived).toBe(REWRITTEN_MAX + parts.length);
    expect(rewritten).toEqual([REWRITTEN_MAX, parts.length]);
  });
});
