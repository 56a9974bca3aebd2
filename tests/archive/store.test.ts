/** What every archive store promises: the same tests over each database that this machine has. */

import { afterAll, describe, expect, test } from "bun:test";
import {
  type ArchiveSearch,
  type ArchiveStore,
  type Found,
  type NewEntry,
  openArchive,
} from "../../lib/archive/index.ts";
import { type ArchiveDatabase, entries, entry, sqliteDatabase } from "../support/archive.ts";
import { eventually } from "../support/eventually.ts";
import { startTestPostgres } from "../support/postgres.ts";

const postgres = await startTestPostgres();
afterAll(() => postgres?.stop());

const databases: readonly [string, () => Promise<ArchiveDatabase>][] = [
  ["SQLite", sqliteDatabase],
  ...(postgres ? [["PostgreSQL", postgres.database] satisfies [string, () => Promise<ArchiveDatabase>]] : []),
];

type RangeOptions = Partial<Parameters<ArchiveStore["history"]>[0]>;

async function seqs(store: ArchiveStore, range: RangeOptions = {}): Promise<number[]> {
  const defaults = { conversation: "c1", epoch: "e1", limit: 1_000, newest: false, messagesOnly: false };
  const page = await store.history({ ...defaults, ...range });
  return page.map(({ seq }) => seq);
}

describe.each(databases)("%s", (_name, database) => {
  async function setup() {
    const place = await database();
    const store = await openArchive(place.url);
    return {
      ...place,
      store,
      async [Symbol.asyncDispose]() {
        await store.close();
        await place[Symbol.asyncDispose]();
      },
    };
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

      await expect(world.store.write([...entries(1, 2), broken])).rejects.toThrow(/not.null/i);

      expect(await seqs(world.store)).toEqual([]);
      expect(await world.store.write(entries(1, 3))).toMatchObject({ added: 3 });
    });

    test("keeps epochs and conversations apart", async () => {
      await using world = await setup();
      await world.store.write([
        entry(1),
        entry(1, { epoch: "e2", id: "x" }),
        entry(1, { conversation: "c2", id: "y" }),
      ]);

      const page = (more: RangeOptions) =>
        world.store.history({ conversation: "c1", epoch: "e1", limit: 9, newest: true, messagesOnly: true, ...more });
      expect(await page({ epoch: "e2" })).toMatchObject([{ id: "x" }]);
      expect(await page({ conversation: "c2" })).toMatchObject([{ id: "y" }]);
      expect(await page({ conversation: "c2", epoch: "e2" })).toEqual([]);
    });

    test("is there for another process as soon as it resolves, and after a reopen", async () => {
      await using world = await setup();
      await world.store.write(entries(1, 10));

      const rows = await world.select(
        "SELECT seq FROM entries WHERE conversation = 'c1' AND epoch = 'e1' ORDER BY seq",
      );
      expect(rows.map(({ seq }) => Number(seq))).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);

      await world.store.close();
      const again = await openArchive(world.url);
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
  });

  describe("parts", () => {
    const range = { conversation: "c1", epoch: "e1", limit: 9, newest: false, messagesOnly: false };

    test("are what the entry with the highest seq made of their target, and come only when asked for", async () => {
      await using world = await setup();
      const { store } = world;
      const edit = (seq: number, target: number, parts: Record<string, string | null>) =>
        entry(seq, { kind: "edit", fold: { target, parts } });
      await store.write([
        ...entries(1, 2),
        edit(3, 1, { content: "a", reactions: "x" }),
        edit(4, 2, { "by ann": "y" }),
      ]);
      await store.write([edit(7, 1, { content: "c" }), edit(6, 1, { content: "b", reactions: "z" })]);
      await store.write([
        edit(3, 1, { content: "again" }),
        edit(5, 2, { content: "gone" }),
        edit(8, 2, { content: null }),
      ]);

      const parts = async (wanted?: string[], more = {}) =>
        (await store.history({ ...range, ...more, ...(wanted ? { parts: wanted } : {}) })).map((one) => one.parts);
      expect(await parts(["content", "reactions"], { limit: 2 })).toEqual([
        { content: "c", reactions: "z" },
        undefined,
      ]);
      expect(await parts(["by ann"], { after: 1, limit: 1 })).toEqual([{ "by ann": "y" }]);
      expect(await parts(["content"], { newest: true, before: 3 })).toEqual([{ content: "c" }, undefined]);
      expect(await parts()).toEqual(Array.from({ length: 8 }, () => undefined));
      expect(await parts(["content"], { epoch: "e2" })).toEqual([]);
    });
  });

  describe("search", () => {
    const said = (seq: number, text: string, more: Partial<NewEntry> = {}) => entry(seq, { text, ...more });
    const change = (seq: number, target: number, text: string) =>
      entry(seq, { kind: "edit", fold: { target, parts: { content: "x" } }, text });
    const c1 = { conversation: "c1", epoch: "e1" };
    const find = async (store: ArchiveStore, text: string, more: Partial<ArchiveSearch> = {}) => {
      const found = await store.search({ timelines: [c1], text, limit: 50, ...more });
      return found.map(({ seq }) => seq);
    };

    test("finds entries that have every word, newest first, and only of the timelines named", async () => {
      await using world = await setup();
      const { store } = world;
      await store.write([
        said(1, "The quick brown fox"),
        said(2, "a quick one"),
        said(3, "nothing"),
        entry(4),
        said(5, "BROWN and quick"),
        said(1, "quick brown", { epoch: "e2" }),
        said(1, "quick brown", { conversation: "c2", committedAt: 1_003 }),
      ]);

      expect(await find(store, "quick")).toEqual([5, 2, 1]);
      expect(await find(store, "Quick, BROWN!")).toEqual([5, 1]);
      expect(await find(store, "quick purple")).toEqual([]);
      expect(await find(store, "quick", { limit: 2 })).toEqual([5, 2]);
      expect(await find(store, "quick", { timelines: [] })).toEqual([]);
      expect(await find(store, "quick", { timelines: [{ ...c1, conversation: "unknown" }] })).toEqual([]);
      const timelines = [c1, { ...c1, conversation: "c2" }];
      expect(await store.search({ timelines, text: "brown", limit: 9 })).toEqual([
        { conversation: "c1", seq: 5, at: 1_005 },
        { conversation: "c2", seq: 1, at: 1_003 },
        { conversation: "c1", seq: 1, at: 1_001 },
      ]);
    });

    test("pages through everything once, where many share one millisecond too", async () => {
      await using world = await setup();
      const timelines = Array.from({ length: 5 }, (_, i) => ({ conversation: `c${i}`, epoch: "e1" }));
      await world.store.write(
        timelines.flatMap(({ conversation }) =>
          Array.from({ length: 20 }, (_, i) =>
            said(i + 1, `word ${i}`, { conversation, committedAt: 1_000 + Math.floor(i / 7) }),
          ),
        ),
      );
      const seen: string[] = [];
      let before: Found | undefined;
      for (let page = 0; page < 40; page++) {
        const found = await world.store.search({ timelines, text: "word", limit: 7, ...(before ? { before } : {}) });
        seen.push(...found.map(({ conversation, seq }) => `${conversation}/${seq}`));
        before = found.at(-1);
        if (found.length < 7) break;
      }
      expect(seen).toHaveLength(100);
      expect(new Set(seen).size).toBe(100);
      expect(seen.slice(0, 7)).toEqual(["c4/20", "c4/19", "c4/18", "c4/17", "c4/16", "c4/15", "c3/20"]);
    });

    test.each([
      { count: 6, length: 300 },
      { count: 70, length: 30 },
    ])(
      "finds the same of a word that many entries have, and of one that few have: $count conversations",
      async ({ count, length }) => {
        await using world = await setup();
        const conversations = Array.from({ length: count }, (_, i) => `c${i}`);
        const at = (seq: number, c: number) => 1_000 + Math.floor((seq * (c + 1)) / 3);
        // A hole in each timeline, at another place.
        const seqOf = (i: number, c: number) => (i < 40 * c ? i + 1 : i + 1 + 100 * c);
        const moreOf = (i: number, c: number) =>
          [i % 50 === 7 ? "seldom" : "", i % 9 === 4 && c < 4 ? "rare" : ""].join(" ");
        await world.store.write(
          conversations.flatMap((conversation, c) =>
            Array.from({ length }, (_, i) => {
              return said(seqOf(i, c), `often ${moreOf(i, c)}`, { conversation, committedAt: at(seqOf(i, c), c) });
            }),
          ),
        );
        const ordered = conversations
          .slice(1)
          .flatMap((conversation, c) =>
            Array.from({ length }, (_, i) => {
              const seq = seqOf(i, c + 1);
              return { conversation, seq, at: at(seq, c + 1), more: moreOf(i, c + 1) };
            }),
          )
          .sort((a, b) => b.at - a.at || b.conversation.localeCompare(a.conversation) || b.seq - a.seq);
        const hits = ordered.map(({ conversation, seq, at }) => ({ conversation, seq, at }));
        const those = (word: string) => hits.filter((_, i) => ordered[i]!.more.includes(word));
        const timelines = conversations.slice(1).map((conversation) => ({ conversation, epoch: "e1" }));
        for (const [text, expected] of [
          ["often", hits],
          ["seldom", those("seldom")],
          // In conversations that were active last long ago.
          ["rare", those("rare")],
          ["often rare", those("rare")],
        ] as const) {
          for (const from of [0, 1, 13, expected.length - 20].filter((from) => from in expected)) {
            const before = from === 0 ? {} : { before: expected[from - 1]! };
            const found = await world.store.search({ timelines, text, limit: 10, ...before });
            expect(found).toEqual(expected.slice(from, from + 10));
          }
        }
      },
    );

    test("knows an entry by its text as it is now, in whatever order changes come", async () => {
      await using world = await setup();
      const { store } = world;
      await store.write([said(1, "first"), said(2, "second"), change(3, 1, "third")]);
      expect([await find(store, "first"), await find(store, "third")]).toEqual([[], [1]]);
      await store.write([change(6, 1, "sixth")]);
      await store.write([change(5, 1, "fifth"), change(4, 2, "")]);
      expect([await find(store, "fifth"), await find(store, "sixth"), await find(store, "second")]).toEqual([
        [],
        [1],
        [],
      ]);
      await store.write([change(8, 7, "later")]);
      await store.write([said(7, "sooner")]);
      expect([await find(store, "sooner"), await find(store, "later")]).toEqual([[], [7]]);
      const reaction = { kind: "reaction", fold: { target: 7, parts: { reactions: "x" } } } as const;
      await store.write([entry(9, reaction), change(3, 1, "third")]);
      expect(await find(store, "sixth later")).toEqual([]);
      expect(await find(store, "later")).toEqual([7]);
    });

    test("takes what users type as words and never as syntax", async () => {
      await using world = await setup();
      const { store } = world;
      await store.write([
        said(1, "near or not and words"),
        said(2, "words* of c:d x"),
        said(3, "it's Müller's 北京欢迎你"),
      ]);
      const typed = ["'", '"', "\\", "*", "()", "-", "^", " ", "", "!&|", "<->", ":*", "\0", "🜁"];
      for (const text of typed) expect(await find(store, text)).toEqual([]);
      for (const text of typed) expect(await find(store, `${text}words${text}`)).toEqual([2, 1]);
      expect(await find(store, 'words" OR "x')).toEqual([]);
      expect(await find(store, "words OR x")).toEqual([]);
      expect(await find(store, "NOT near AND or")).toEqual([1]);
      expect(await find(store, "NEAR(words)")).toEqual([1]);
      expect(await find(store, "words:c")).toEqual([2]);
      expect(await find(store, "wor*")).toEqual([]);
      expect(await find(store, "words & x' | 'near")).toEqual([]);
      expect(await find(store, "MULLER it's")).toEqual([3]);
      expect(await find(store, "欢迎")).toEqual([3]);
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

  describe("erasure", () => {
    const said = (seq: number, record: string, more: Partial<NewEntry> = {}) =>
      entry(seq, { record, text: record, ...more });
    const fold = (seq: number, target: number, parts: Record<string, string | null>) =>
      entry(seq, { kind: "reaction", record: "{}", fold: { target, parts } });
    async function findAll(store: ArchiveStore, text: string, count: number) {
      const records: string[] = [];
      const parts: string[] = [];
      let from: { timeline: number; seq: number } | undefined;
      do {
        const page = await store.find({ text, part: `by ${text}`, count, ...(from ? { from } : {}) });
        records.push(...page.records.map(({ conversation, epoch, seq }) => `${conversation}/${epoch}/${seq}`));
        parts.push(...page.parts.map(({ conversation, seq, part }) => `${conversation}/${seq} ${part}`));
        from = page.next;
      } while (from);
      return { records: records.sort(), parts: parts.sort() };
    }

    test("finds every record and part that holds a text, whatever the size of the page", async () => {
      await using world = await setup();
      const { store } = world;
      await store.write([
        said(1, "of ann"),
        said(2, "of bob"),
        said(3, "ann again"),
        said(1, "ANN of old", { epoch: "e0" }),
        said(7, "ann", { conversation: "c2" }),
        fold(4, 2, { reactions: "ann and bob", "by ann": "x", "by bob": "y" }),
        fold(5, 9, { content: "of an entry to come, by ann" }),
        fold(6, 1, { reactions: null }),
      ]);
      for (const count of [1, 2, 3, 8, 100]) {
        expect(await findAll(store, "ann", count)).toEqual({
          records: ["c1/e1/1", "c1/e1/3", "c2/e1/7"],
          parts: ["c1/2 by ann", "c1/2 reactions", "c1/9 content"],
        });
      }
      expect(await findAll(store, "nobody", 3)).toEqual({ records: [], parts: [] });
    });

    test("rewrites records, parts and words, and leaves the rest; again changes nothing", async () => {
      await using world = await setup();
      const { store } = world;
      const rewrite = () =>
        store.rewrite([
          { ...c1, seq: 1, record: "{}", parts: { content: "gone", reactions: null }, unsearchable: true },
          { ...c1, seq: 2, parts: { reactions: "bob", "by ann": null } },
          { ...c1, seq: 8, record: "of no entry" },
          { ...c1, conversation: "unknown", seq: 1, record: "{}" },
        ]);
      const c1 = { conversation: "c1", epoch: "e1" };
      await store.write([
        said(1, "canary one"),
        said(2, "canary two"),
        fold(3, 1, { reactions: "ann" }),
        fold(4, 2, { reactions: "ann, bob", "by ann": "x" }),
      ]);
      for (let i = 0; i < 2; i++) {
        await rewrite();
        const range = { ...c1, limit: 9, newest: false, messagesOnly: true };
        const page = await store.history({ ...range, parts: ["content", "reactions", "by ann"] });
        expect(page.map(({ record, parts }) => [record, parts])).toEqual([
          ["{}", { content: "gone" }],
          ["canary two", { reactions: "bob" }],
        ]);
        const found = await store.search({ timelines: [c1], text: "canary", limit: 9 });
        expect(found.map(({ seq }) => seq)).toEqual([2]);
      }
      // What is read again of the queue is there already, and a later change counts as ever.
      await store.write([said(1, "canary one"), fold(5, 1, { content: "later" })]);
      const [first] = await store.history({ ...c1, limit: 1, newest: false, messagesOnly: true, parts: ["content"] });
      expect(first).toMatchObject({ record: "{}", parts: { content: "later" } });
      await eventually(async () => expect(await store.scrub()).toEqual({ more: false }));
    });
  });

  describe("retention", () => {
    test("removes the old beginning of each timeline with parts and words, and names it before", async () => {
      await using world = await setup();
      const { store } = world;
      const said = (seq: number, more: Partial<NewEntry> = {}) => entry(seq, { text: "word", ...more });
      const edit = (seq: number, target: number) =>
        entry(seq, { kind: "edit", fold: { target, parts: { content: "x" } }, text: "word", committedAt: 9_000 });
      const old = Array.from({ length: 2_500 }, (_, i) => said(i + 1));
      await store.write([...old, edit(2_501, 5), edit(2_502, 2_501)]);
      await store.write([said(1, { conversation: "c2" }), said(2, { conversation: "c2" })]);
      await store.write([said(1, { conversation: "c3", committedAt: 9_000 })]);

      const expired = async (from = 0, count = 10) => store.expired({ beforeMs: 9_000, from, count });
      const { timelines, next } = await expired();
      expect(next).toBe(0);
      expect(timelines.map(({ conversation, through }) => [conversation, through]).sort()).toEqual([
        ["c1", 2_500],
        ["c2", 2],
      ]);
      expect((await expired(0, 1)).next).toBe(1);
      for (let i = 0; i < 2; i++) {
        await store.remove(timelines);
        expect(await seqs(store)).toEqual([2_501, 2_502]);
        expect(await seqs(store, { conversation: "c2" })).toEqual([]);
        expect(await seqs(store, { conversation: "c3" })).toEqual([1]);
      }
      expect((await expired()).timelines).toEqual([]);
      for (const table of ["timeline_parts", "timeline_entries"]) {
        const [row] = await world.select(`SELECT count(*) AS n FROM ${table} WHERE seq < 2501 AND timeline = 1`);
        expect(Number(row!.n)).toBe(0);
      }
      const found = await store.search({
        timelines: ["c1", "c2", "c3"].map((conversation) => ({ conversation, epoch: "e1" })),
        ...{ text: "word", limit: 9 },
      });
      expect(found.map(({ conversation, seq }) => [conversation, seq])).toEqual([
        ["c3", 1],
        ["c1", 2_501],
      ]);
      // The numbering goes on.
      expect(await store.write([entry(2_503)])).toMatchObject({ added: 1, timelines: [{ lastSeq: 2_503 }] });
    });
  });

  describe("opening", () => {
    test("twice at once, in two stores of one file, makes one archive that both write", async () => {
      await using world = await setup();
      const other = await openArchive(world.url);
      await Promise.all([world.store.write(entries(1, 500)), other.write(entries(1, 500))]);
      expect(await other.write(entries(501, 502))).toMatchObject({ added: 2, timelines: [{ lastSeq: 502 }] });
      expect(await seqs(world.store, { limit: 2, newest: true })).toEqual([501, 502]);
      await other.close();
    });
  });
});

test("a URL of no database that it can use is refused, and says what to give", async () => {
  await expect(openArchive("mysql://localhost/skein")).rejects.toMatchObject({
    code: "INVALID",
    message: expect.stringContaining("sqlite://"),
  });
});
