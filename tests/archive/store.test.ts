import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { type ArchiveStore, type NewEntry, openArchive } from "../../lib/archive/index.ts";
import { historyQuery } from "../../lib/archive/sqlite.ts";
import { temporaryFolder } from "../support/folder.ts";

function entry(seq: number, more: Partial<NewEntry> = {}): NewEntry {
  const id = `m${seq}`;
  const record = JSON.stringify({ seq, id, body: { text: `text ${seq}` } });
  return {
    conversation: "c1",
    epoch: "e1",
    seq,
    kind: "message",
    id,
    ordinal: seq,
    record,
    committedAt: 1_000 + seq,
    ...more,
  };
}

function entries(from: number, to: number, more: Partial<NewEntry> = {}): NewEntry[] {
  return Array.from({ length: to - from + 1 }, (_, i) => entry(from + i, more));
}

async function setup() {
  const folder = temporaryFolder("archive");
  const path = join(folder.path, "data", "archive.db");
  const store = await openArchive(`sqlite://${path}`);
  return {
    path,
    store,
    async [Symbol.asyncDispose]() {
      await store.close();
      folder[Symbol.dispose]();
    },
  };
}

type RangeOptions = Partial<Parameters<ArchiveStore["history"]>[0]>;

async function seqs(store: ArchiveStore, range: RangeOptions = {}): Promise<number[]> {
  const defaults = { conversation: "c1", epoch: "e1", limit: 1_000, newest: false, messagesOnly: false };
  const page = await store.history({ ...defaults, ...range });
  return page.map(({ seq }) => seq);
}

describe("a write", () => {
  test("keeps an entry with every byte of its record", async () => {
    await using world = await setup();
    const record =
      '{"seq":1,"id":"m1","body":{"text":"ä\\u0000 \\"q\\" 🜁 \u2028 {\\"a\\":1e400}"},"big":9007199254740993}';

    await world.store.write([entry(1, { record, ordinal: 0, kind: "settings" })]);

    const range = { conversation: "c1", epoch: "e1", limit: 1, newest: false, messagesOnly: false };
    expect(await world.store.history(range)).toEqual([{ seq: 1, kind: "settings", id: "m1", ordinal: 0, record }]);
  });

  test("that comes again, whole, in part or within one write, adds nothing", async () => {
    await using world = await setup();

    expect(await world.store.write(entries(1, 600))).toMatchObject({ added: 600, clashes: 0 });
    expect(await world.store.write(entries(1, 600))).toMatchObject({ added: 0, clashes: 0 });
    expect(await world.store.write([...entries(400, 700), ...entries(650, 702)])).toMatchObject({ added: 102 });

    expect(await seqs(world.store)).toEqual(Array.from({ length: 702 }, (_, i) => i + 1));
  });

  test("never replaces an entry by another one: the first stays and the clash is told", async () => {
    await using world = await setup();
    await world.store.write(entries(1, 3));

    const result = await world.store.write([entry(2, { id: "other", record: "{}" }), entry(4)]);

    expect(result).toMatchObject({ added: 1, clashes: 1 });
    const page = await world.store.history({
      conversation: "c1",
      epoch: "e1",
      limit: 9,
      newest: false,
      messagesOnly: false,
    });
    expect(page.map(({ id }) => id)).toEqual(["m1", "m2", "m3", "m4"]);
  });

  test("is all or nothing", async () => {
    await using world = await setup();
    const broken = { ...entry(3), record: null as unknown as string };

    await expect(world.store.write([...entries(1, 2), broken])).rejects.toThrow("NOT NULL");

    expect(await seqs(world.store)).toEqual([]);
    expect(await world.store.write(entries(1, 3))).toMatchObject({ added: 3 });
  });

  test("keeps epochs and conversations apart", async () => {
    await using world = await setup();
    await world.store.write([entry(1), entry(1, { epoch: "e2", id: "x" }), entry(1, { conversation: "c2", id: "y" })]);

    const page = (more: RangeOptions) =>
      world.store.history({ conversation: "c1", epoch: "e1", limit: 9, newest: true, messagesOnly: true, ...more });
    expect(await page({ epoch: "e2" })).toMatchObject([{ id: "x" }]);
    expect(await page({ conversation: "c2" })).toMatchObject([{ id: "y" }]);
    expect(await page({ conversation: "c2", epoch: "e2" })).toEqual([]);
  });

  test("is there for another process as soon as it resolves, and after a reopen", async () => {
    await using world = await setup();
    await world.store.write(entries(1, 10));

    const other = new Database(world.path, { readonly: true });
    expect(other.query("SELECT count(*) AS n FROM entries WHERE conversation = 'c1' AND epoch = 'e1'").get()).toEqual({
      n: 10,
    });
    other.close();

    await world.store.close();
    const again = await openArchive(`sqlite://${world.path}`);
    expect(await again.write(entries(8, 12))).toMatchObject({ added: 2, timelines: [{ lastSeq: 12 }] });
    expect(await seqs(again)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    await again.close();
  });
});

describe("how far a timeline is held", () => {
  const state = async (store: ArchiveStore, list: NewEntry[]) => {
    const { timelines } = await store.write(list);
    return timelines.map(({ lastSeq, newestSeq }) => [lastSeq, newestSeq]);
  };

  test("is the end of what has no hole before it", async () => {
    await using world = await setup();
    expect(await state(world.store, entries(1, 5))).toEqual([[5, 5]]);
    expect(await state(world.store, entries(9, 10))).toEqual([[5, 10]]);
    expect(await state(world.store, entries(11, 12))).toEqual([[5, 12]]);
    expect(await state(world.store, [entry(7)])).toEqual([[5, 12]]);
    expect(await state(world.store, [entry(6)])).toEqual([[7, 12]]);
    expect(await state(world.store, [entry(8)])).toEqual([[12, 12]]);
  });

  test("does not depend on the order in which a write names entries", async () => {
    await using world = await setup();
    expect(await state(world.store, [...entries(5, 9), ...entries(1, 7)])).toEqual([[9, 9]]);
  });

  test("of a timeline whose begin never came is 0", async () => {
    await using world = await setup();
    expect(await state(world.store, entries(100, 200))).toEqual([[0, 200]]);
  });
});

describe("history", () => {
  test("has exclusive bounds at both ends, and is ascending from either", async () => {
    await using world = await setup();
    await world.store.write(entries(1, 20));
    const { store } = world;

    expect(await seqs(store, { after: 3, before: 8 })).toEqual([4, 5, 6, 7]);
    expect(await seqs(store, { after: 3, before: 8, limit: 2 })).toEqual([4, 5]);
    expect(await seqs(store, { after: 3, before: 8, limit: 2, newest: true })).toEqual([6, 7]);
    expect(await seqs(store, { limit: 3 })).toEqual([1, 2, 3]);
    expect(await seqs(store, { limit: 3, newest: true })).toEqual([18, 19, 20]);
    expect(await seqs(store, { after: 19 })).toEqual([20]);
    expect(await seqs(store, { after: 20 })).toEqual([]);
    expect(await seqs(store, { before: 2, newest: true })).toEqual([1]);
    expect(await seqs(store, { before: 1 })).toEqual([]);
    expect(await seqs(store, { after: 7, before: 8 })).toEqual([]);
    expect(await seqs(store, { before: Number.MAX_SAFE_INTEGER, limit: 1, newest: true })).toEqual([20]);
    expect(await seqs(store, { conversation: "unknown" })).toEqual([]);
  });

  test("of messages only passes over the rest without counting it", async () => {
    await using world = await setup();
    await world.store.write(entries(1, 300).map((one) => (one.seq % 100 < 95 ? { ...one, kind: "member" } : one)));

    const messages = [95, 96, 97, 98, 99, 195, 196, 197, 198, 199, 295, 296, 297, 298, 299];
    expect(await seqs(world.store, { messagesOnly: true })).toEqual(messages);
    expect(await seqs(world.store, { messagesOnly: true, limit: 7 })).toEqual(messages.slice(0, 7));
    expect(await seqs(world.store, { messagesOnly: true, limit: 7, newest: true })).toEqual(messages.slice(-7));
    expect(await seqs(world.store, { messagesOnly: true, after: 99, before: 197 })).toEqual([195, 196]);
  });

  test("of 100 000 entries is an index search without a sort, in every form", async () => {
    await using world = await setup();
    for (let c = 0; c < 10; c++) {
      for (let from = 1; from <= 10_000; from += 2_500) {
        await world.store.write(entries(from, from + 2_499, { conversation: `c${c}` }));
      }
    }
    const database = new Database(world.path, { readonly: true });
    for (const newest of [true, false]) {
      for (const messagesOnly of [true, false]) {
        const query = database.query<{ detail: string }, (string | number)[]>(
          `EXPLAIN QUERY PLAN ${historyQuery({ newest, messagesOnly })}`,
        );
        const plan = query.all("c1", "e1", 5_000, 9_000, 50).map(({ detail }) => detail);
        expect(plan[0]).toStartWith("SEARCH timeline_entries USING INDEX");
        expect(plan.join("; ")).not.toMatch(/SCAN (?!SUBQUERY)|TEMP B-TREE/);
      }
    }
    const view = database.query<{ detail: string }, []>(
      "EXPLAIN QUERY PLAN SELECT * FROM entries WHERE conversation = 'c1' AND epoch = 'e1' ORDER BY seq",
    );
    expect(
      view
        .all()
        .map(({ detail }) => detail)
        .join("; "),
    ).not.toMatch(/SCAN/);
    database.close();

    expect(await seqs(world.store, { after: 9_990 })).toEqual([
      9_991, 9_992, 9_993, 9_994, 9_995, 9_996, 9_997, 9_998, 9_999, 10_000,
    ]);
  });
});

describe("parts", () => {
  const range = { conversation: "c1", epoch: "e1", limit: 9, newest: false, messagesOnly: false };

  test("are what the entry with the highest seq made of their target, and come only when asked for", async () => {
    await using world = await setup();
    const { store } = world;
    const edit = (seq: number, target: number, parts: Record<string, string | null>) =>
      entry(seq, { kind: "edit", fold: { target, parts } });
    await store.write([...entries(1, 2), edit(3, 1, { content: "a", reactions: "x" }), edit(4, 2, { "by ann": "y" })]);
    await store.write([edit(7, 1, { content: "c" }), edit(6, 1, { content: "b", reactions: "z" })]);
    await store.write([
      edit(3, 1, { content: "again" }),
      edit(5, 2, { content: "gone" }),
      edit(8, 2, { content: null }),
    ]);

    const parts = async (wanted?: string[], more = {}) =>
      (await store.history({ ...range, ...more, ...(wanted ? { parts: wanted } : {}) })).map((one) => one.parts);
    expect(await parts(["content", "reactions"], { limit: 2 })).toEqual([{ content: "c", reactions: "z" }, undefined]);
    expect(await parts(["by ann"], { after: 1, limit: 1 })).toEqual([{ "by ann": "y" }]);
    expect(await parts(["content"], { newest: true, before: 3 })).toEqual([{ content: "c" }, undefined]);
    expect(await parts()).toEqual(Array.from({ length: 8 }, () => undefined));
    expect(await parts(["content"], { epoch: "e2" })).toEqual([]);
  });

  test("are there in an archive of the schema before them, and its entries still are", async () => {
    await using world = await setup();
    await world.store.write(entries(1, 3));
    await world.store.close();
    const database = new Database(world.path);
    database.run("DROP VIEW parts");
    database.run("DROP TABLE timeline_parts");
    database.run("PRAGMA user_version = 1");
    database.close();
    const again = await openArchive(`sqlite://${world.path}`);
    await again.write([entry(4, { kind: "edit", fold: { target: 1, parts: { content: "a" } } })]);
    const page = await again.history({ ...range, parts: ["content"] });
    expect(page.map(({ seq, parts }) => [seq, parts?.content])).toEqual([
      [1, "a"],
      [2, undefined],
      [3, undefined],
      [4, undefined],
    ]);
    await again.close();
  });
});

describe("announcements", () => {
  test("move forward only, and a page names what is idle, unannounced and held", async () => {
    await using world = await setup();
    const { store } = world;
    await store.write([
      ...entries(1, 9),
      ...entries(1, 5, { conversation: "c2" }),
      ...entries(1, 5, { conversation: "c3", committedAt: 9_000_000 }),
    ]);
    const page = () => store.unannounced({ idleSinceMs: 5_000, from: 0, count: 100 });

    const first = await page();
    expect(first.timelines.map(({ conversation, lastSeq }) => [conversation, lastSeq])).toEqual([
      ["c1", 9],
      ["c2", 5],
    ]);
    await store.noteAnnounced(first.timelines);
    expect((await page()).timelines).toEqual([]);
    await store.noteAnnounced([{ ...first.timelines[0]!, lastSeq: 2 }]);
    const { timelines } = await store.write([entry(10)]);
    expect(timelines).toMatchObject([{ conversation: "c1", lastSeq: 10, announcedSeq: 9 }]);
  });

  test("are paged through in bounded steps", async () => {
    await using world = await setup();
    await world.store.write(Array.from({ length: 25 }, (_, i) => entry(1, { conversation: `c${i}` })));
    const seen: string[] = [];
    let from = 0;
    let pages = 0;
    do {
      const { timelines, next } = await world.store.unannounced({ idleSinceMs: 5_000, from, count: 10 });
      seen.push(...timelines.map(({ conversation }) => conversation));
      from = next;
      pages += 1;
    } while (from > 0);
    expect(seen).toHaveLength(25);
    expect(pages).toBe(3);
  });
});

describe("opening", () => {
  test("refuses a database that it does not know and a schema that is not its own, and says what to do", async () => {
    await expect(openArchive("postgres://localhost/skein")).rejects.toMatchObject({
      code: "INVALID",
      message: expect.stringContaining("sqlite://"),
    });
    await using world = await setup();
    await world.store.close();
    const database = new Database(world.path);
    database.run("PRAGMA user_version = 7");
    database.close();
    await expect(openArchive(`sqlite://${world.path}`)).rejects.toMatchObject({
      code: "INVALID",
      message: expect.stringContaining("schema 7"),
    });
  });

  test("twice at once, in two stores of one file, makes one archive that both write", async () => {
    await using world = await setup();
    const other = await openArchive(`sqlite://${world.path}`);
    await Promise.all([world.store.write(entries(1, 500)), other.write(entries(1, 500))]);
    expect(await other.write(entries(501, 502))).toMatchObject({ added: 2, timelines: [{ lastSeq: 502 }] });
    expect(await seqs(world.store, { limit: 2, newest: true })).toEqual([501, 502]);
    await other.close();
  });
});
