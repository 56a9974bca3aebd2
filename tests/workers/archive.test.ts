import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { type ArchiveStore, openArchive } from "../../lib/archive/index.ts";
import { type Clock, systemClock } from "../../lib/clock.ts";
import { history, imCommands, imEvents, read, sync } from "../../lib/im/index.ts";
import { openQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import type { Service } from "../../lib/service.ts";
import { createAnnouncer } from "../../workers/archive/announce.ts";
import { createExpiry } from "../../workers/archive/expire.ts";
import { createIngest } from "../../workers/archive/ingest.ts";
import { createCommands } from "../../workers/logic/commands.ts";
import { eventually } from "../support/eventually.ts";
import { createFakeClock } from "../support/fake-clock.ts";
import { temporaryFolder } from "../support/folder.ts";
import { makeChat } from "../support/im.ts";
import { openTestStore } from "../support/redis.ts";
import { refusal } from "../support/refusal.ts";
import { startUnit } from "../support/unit.ts";

const HARD = AbortSignal.abort();

async function setup(name: string) {
  const store = await openTestStore(name);
  const folder = temporaryFolder(name);
  const archive = await openArchive(`sqlite://${join(folder.path, "archive.db")}`);
  const chat = makeChat(store, (range) => archive.history(range));
  const { redis, keys, metrics } = store;
  const queue = openQueue({ redis, keys, clock: systemClock, log: silentLog, metrics, member: "t.archive" });
  const running: Service[] = [];
  return {
    store,
    folder,
    archive,
    chat,
    queue,
    async run(service: Service) {
      running.push(service);
      await service.start();
      return service;
    },
    ingest(
      given: ArchiveStore = archive,
      onWritten: Parameters<typeof createIngest>[0]["onWritten"] = () => undefined,
    ) {
      const member = openQueue({ redis, keys, clock: systemClock, log: silentLog, metrics, member: "t.archive" });
      return createIngest({ store: given, queue: member, clock: systemClock, log: silentLog, metrics, onWritten });
    },
    announcer: (clock: Clock = systemClock) => createAnnouncer({ store: archive, queue, clock, log: silentLog }),
    /** The archive's rows in the shape of chat.rows. */
    async rows(conversation: string) {
      const { epoch } = await chat.conversations.get("ann", conversation);
      const range = { conversation, epoch, limit: 1_000, newest: false, messagesOnly: false };
      const page = await archive.history(range);
      return page.map(({ seq, kind, ordinal, record }) => [
        seq,
        kind === "message" ? "m" : kind,
        ordinal,
        JSON.parse(record),
      ]);
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(running.map((service) => service.stop(HARD)));
      await archive.close();
      folder[Symbol.dispose]();
      await store[Symbol.asyncDispose]();
    },
  };
}

type World = Awaited<ReturnType<typeof setup>>;

/** Conversations with every kind of entry in them. */
async function talk({ chat }: World, conversations: number, messages: number): Promise<string[]> {
  const groups = await Promise.all(Array.from({ length: conversations }, () => chat.group("ann", "bob")));
  await Promise.all(
    groups.map(async (group, g) => {
      await chat.conversations.add("ann", group, ["cid"]);
      for (let i = 0; i < messages; i++) await chat.send("ann", group, `${g} "${i}" ä🜁`);
      await chat.conversations.remove("ann", group, "bob");
      await chat.conversations.change("ann", group, { title: 'a "title"' });
    }),
  );
  return groups;
}

async function expectSame(world: World, groups: readonly string[]): Promise<void> {
  await eventually(async () => {
    for (const group of groups) expect(await world.rows(group)).toEqual((await world.chat.rows(group)) as unknown[][]);
  });
}

describe("the archive group", () => {
  test("keeps every entry of every timeline as logic committed it", async () => {
    await using world = await setup("archive-all");
    const groups = await talk(world, 12, 20);
    await world.run(world.ingest());
    const late = await talk(world, 3, 5);

    await expectSame(world, [...groups, ...late]);
    expect(await metric(world, "im_archive_entries_total")).toBe(12 * 23 + 3 * 8);
    expect(await metric(world, "im_archive_gaps_total")).toBe(0);
  });

  test("adds nothing when everything is delivered again, or is written twice", async () => {
    await using world = await setup("archive-again");
    const groups = await talk(world, 4, 10);
    const twice: ArchiveStore = {
      ...world.archive,
      write: async (entries) => {
        const result = await world.archive.write(entries);
        expect(await world.archive.write(entries)).toMatchObject({ added: 0, clashes: 0 });
        return result;
      },
    };
    const first = await world.run(world.ingest(twice));
    await expectSame(world, groups);
    await first.stop(new AbortController().signal);

    const { redis, keys } = world.store;
    for (let partition = 0; partition < keys.partitions; partition++) {
      await redis.commands.del(keys.lease("im.events", partition, "archive"));
    }
    let again = 0;
    const counting: ArchiveStore = {
      ...world.archive,
      write(entries) {
        again += entries.length;
        return world.archive.write(entries);
      },
    };
    await world.run(world.ingest(counting));
    await eventually(() => expect(again).toBe(4 * 13));

    await expectSame(world, groups);
    expect(await metric(world, "im_archive_entries_total")).toBe(4 * 13);
    expect(await metric(world, "im_archive_clashes_total")).toBe(0);
  });

  test("that dies between the commit and its checkpoint leaves no doubled row", async () => {
    await using world = await setup("archive-died");
    const groups = await talk(world, 4, 10);
    let committed = 0;
    const dying: ArchiveStore = {
      ...world.archive,
      async write(entries) {
        await world.archive.write(entries);
        committed += entries.length;
        return new Promise(() => undefined);
      },
    };
    const first = world.ingest(dying);
    await first.start();
    await eventually(() => expect(committed).toBeGreaterThan(0));
    await first.stop(HARD);

    await world.run(world.ingest());

    await expectSame(world, groups);
    const database = new Database(join(world.folder.path, "archive.db"), { readonly: true });
    expect(database.query("SELECT count(*) AS n FROM entries").get()).toEqual({ n: 4 * 13 });
    database.close();
  });

  test("waits for a store that fails, and gives nothing up", async () => {
    await using world = await setup("archive-fails");
    const groups = await talk(world, 3, 10);
    let failures = 0;
    const failing: ArchiveStore = {
      ...world.archive,
      write(entries) {
        failures += 1;
        return failures <= 4 ? Promise.reject(new Error("disk I/O error")) : world.archive.write(entries);
      },
    };
    await world.run(world.ingest(failing));

    await expectSame(world, groups);
    expect(failures).toBeGreaterThan(4);
    expect(await metric(world, "im_mq_buried_total")).toBe(0);
  });

  test("buries an event that can never be stored, alone, and tells the hole it leaves", async () => {
    await using world = await setup("archive-poison");
    const { queue, chat } = world;
    const group = await chat.group("ann");
    await chat.send("ann", group, "one");
    const events = { type: "im.message.created", key: group, raw: "{}" };
    await queue.publish(imEvents, { ...events, sequence: 2 });
    await queue.publish(imEvents, { type: "im.member.added", key: group, raw: "{", sequence: 3, properties: place(1) });
    await queue.publish(imEvents, { ...events, sequence: 4, properties: { ordinal: "x", epoch: "e" } });
    await chat.send("ann", group, "two");
    const states: unknown[] = [];
    await world.run(world.ingest(world.archive, (timelines) => states.push(...timelines)));

    await expectSame(world, [group]);
    // Counted with the commit that moves them.
    await eventually(async () => expect(await metric(world, "im_mq_buried_total")).toBe(3));
    expect(states.at(-1)).toMatchObject({ lastSeq: 2, newestSeq: 2 });
  });

  test("of a real process that is killed again and again loses and doubles nothing", async () => {
    await using world = await setup("archive-killed");
    const groups = await Promise.all(Array.from({ length: 8 }, () => world.chat.group("ann", "bob")));
    let isSending = true;
    let sent = 0;
    const sending = (async () => {
      // No more, however slow the kills come: what was in the hands of three that died is handed out alone, each.
      while (isSending && sent < 2_000) {
        await Promise.all(groups.map((group) => world.chat.send("ann", group, `text ${sent}`)));
        sent += groups.length;
        await Bun.sleep(2);
      }
    })();
    for (let i = 0; i < 3; i++) {
      await using unit = await startUnit(world.store, world.folder.path, "archive");
      await eventually(async () => expect((await world.rows(groups[0]!)).length).toBeGreaterThan(20 * i));
      await unit.kill();
    }
    isSending = false;
    await sending;
    await using last = await startUnit(world.store, world.folder.path, "archive");

    const database = new Database(join(world.folder.path, "archive.db"), { readonly: true });
    const counted = database.query<{ n: number }, []>("SELECT count(*) AS n FROM entries");
    await eventually(() => expect(counted.get()!.n).toBe(sent), 60_000);
    const shape = database.query("SELECT min(seq) AS first, max(seq) AS last FROM entries GROUP BY conversation");
    for (const row of shape.all()) expect(row).toEqual({ first: 1, last: sent / groups.length });
    database.close();
    expect(await last.stop()).toBe(0);
  });
});

test("what is older than it is kept is in no history any more, and who comes back to it is told of the gap", async () => {
  await using world = await setup("archive-expiry");
  const { chat, store } = world;
  const clock = createFakeClock(Date.now());
  const { redis, keys, metrics } = store;
  const member = { redis, keys, metrics, clock: systemClock, log: silentLog };
  await world.run(world.ingest());
  await world.run(createCommands(chat, openQueue({ ...member, member: "t.logic" })));
  const group = await chat.group("ann", "bob");
  for (let i = 1; i <= 5; i++) await chat.send("ann", group, `old ${i}`);
  await eventually(async () => expect(await world.rows(group)).toHaveLength(5));
  const { epoch } = await chat.conversations.get("ann", group);
  const parts = { store: world.archive, queue: world.queue, clock, log: silentLog, days: 30 };
  await world.run(createExpiry(parts));
  await clock.advance(3_600_000);
  expect(await world.rows(group)).toHaveLength(5);
  await eventually(() => expect(clock.sleepers).toBe(1));
  await clock.advance(31 * 24 * 3_600_000);
  await eventually(async () => {
    // The last message stays in the hot window, for lists show it.
    const { messages, more } = await history(chat, "bob", { conversation: group, limit: 10 });
    expect([messages.map(({ seq }) => seq), more]).toEqual([[5], false]);
  });
  expect(await world.rows(group)).toEqual([]);
  // What is gone is not to be changed, and counts as read.
  const reaction = chat.amendments.react("bob", { conversation: group, seq: 2 }, "👍", true);
  expect((await refusal(reaction)).code).toBe("NOT_FOUND");
  expect(await read(chat, "bob", group, 2)).toEqual({ read: 2, unread: 1 });
  await chat.send("ann", group, "new");
  const cursor = { conversation: group, epoch, seq: 2 };
  const { conversations } = await sync(chat, "bob", [cursor]);
  expect(conversations[0]).toMatchObject({ verdict: "gap", head: 6 });
  expect((await sync(chat, "bob", [{ ...cursor, seq: 5 }])).conversations[0]).toMatchObject({ verdict: "resumed" });
});

describe("announcements", () => {
  test("let logic trim behind the archive, and readers do not notice", async () => {
    await using world = await setup("archive-trim");
    const { chat, store } = world;
    const announcer = world.announcer();
    await world.run(announcer.service);
    await world.run(world.ingest(world.archive, announcer.consider));
    const logic = openQueue({
      ...{ redis: store.redis, keys: store.keys, clock: systemClock, log: silentLog, metrics: store.metrics },
      member: "t.logic",
    });
    await world.run(createCommands(chat, logic));
    const group = await chat.group("ann");
    for (let i = 0; i < 150; i++) {
      await Promise.all(Array.from({ length: 10 }, (_, k) => chat.send("ann", group, `${i} ${k}`)));
    }

    const log = store.keys.log(group);
    await eventually(async () => expect(await store.redis.commands.xlen(log)).toBeLessThan(1_257));
    expect(await store.redis.commands.xlen(log)).toBeGreaterThanOrEqual(1_000);
    const { epoch } = await chat.conversations.get("ann", group);
    const range = { conversation: group, epoch, before: 1_501, messagesOnly: true };
    const seqs = async (more: { after: number; limit: number; newest: boolean }) =>
      (await chat.timeline.read({ ...range, ...more })).map(({ seq }) => seq);
    const all = Array.from({ length: 1_500 }, (_, i) => i + 1);
    expect(await seqs({ after: 0, limit: 1_000, newest: false })).toEqual(all.slice(0, 1_000));
    expect(await seqs({ after: 500, limit: 1_000, newest: true })).toEqual(all.slice(500));
    expect(await seqs({ after: 100, limit: 500, newest: false })).toEqual(all.slice(100, 600));
  });

  test("of a timeline that began anew do not trim the new one", async () => {
    await using world = await setup("archive-epoch");
    const { chat, store, queue } = world;
    const logic = openQueue({
      ...{ redis: store.redis, keys: store.keys, clock: systemClock, log: silentLog, metrics: store.metrics },
      member: "t.logic",
    });
    await world.run(createCommands(chat, logic));
    const group = await chat.group("ann");
    for (let i = 0; i < 110; i++) {
      await Promise.all(Array.from({ length: 10 }, (_, k) => chat.send("ann", group, `${i} ${k}`)));
    }
    const archived = (epoch: string) =>
      queue.publish(imCommands, {
        type: "im.command.archived",
        key: group,
        data: { type: "archived", conversation: group, epoch, through: 1_100 },
      });
    await archived("another");
    await eventually(async () => expect((await queue.describe(imCommands)).groups[0]?.lag).toBe(0));
    expect(await store.redis.commands.xlen(store.keys.log(group))).toBe(1_100);

    await archived((await chat.conversations.get("ann", group)).epoch);
    await eventually(async () => expect(await store.redis.commands.xlen(store.keys.log(group))).toBe(1_000));
  });

  test("come from the hourly sweep for conversations that went quiet, until they are announced", async () => {
    await using world = await setup("archive-sweep");
    const clock = createFakeClock(Date.now());
    const groups = await talk(world, 3, 2);
    await world.run(world.ingest());
    await expectSame(world, groups);
    await world.run(world.announcer(clock).service);
    const commands = async () => (await world.queue.describe(imCommands)).length;

    await clock.advance(3_600_000);
    expect(await commands()).toBe(0);
    await eventually(() => expect(clock.sleepers).toBe(1));
    await clock.advance(7 * 24 * 3_600_000);
    await eventually(async () => expect(await commands()).toBe(3));
    await eventually(async () => {
      const { timelines } = await world.archive.unannounced({ idleSinceMs: clock.now(), from: 0, count: 100 });
      expect(timelines).toEqual([]);
    });
  });
});

function place(ordinal: number): Record<string, string> {
  return { epoch: "e1", ordinal: String(ordinal) };
}

async function metric({ store }: World, name: string): Promise<number> {
  const found = await store.metrics.registry.getSingleMetric(name)!.get();
  return found.values.reduce((sum, { value }) => sum + value, 0);
}
