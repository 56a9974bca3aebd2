/** What is SQLite's own: plans, schema versions. The contract is in store.test.ts. */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { openArchive } from "../../lib/archive/index.ts";
import { historyQuery } from "../../lib/archive/sqlite.ts";
import { entries, entry, sqliteDatabase } from "../support/archive.ts";
import { eventually } from "../support/eventually.ts";

async function setup() {
  const place = await sqliteDatabase();
  const store = await openArchive(place.url);
  return {
    path: place.url.slice("sqlite://".length),
    store,
    async [Symbol.asyncDispose]() {
      await store.close();
      await place[Symbol.asyncDispose]();
    },
  };
}

test("history of 100 000 entries is an index search without a sort, in every form", async () => {
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
});

test("scrubbed, its files hold no byte of what was rewritten", async () => {
  await using world = await setup();
  const { store, path } = world;
  const said = (seq: number, text: string) => entry(seq, { record: `{"text":"${text}"}`, text });
  for (let from = 1; from <= 4_000; from += 500) {
    const texts = Array.from({ length: 500 }, (_, i) =>
      said(from + i, `plain ${i % 10 === 0 ? "canary" : "word"} ${i}`),
    );
    await store.write(texts);
  }
  const edits = (from: number, text: string) =>
    Array.from({ length: 300 }, (_, i) =>
      entry(from + i, { kind: "edit", record: "{}", fold: { target: i + 1, parts: { content: text + i } }, text }),
    );
  await store.write(edits(4_001, "canary of an edit"));
  await store.write(edits(4_301, "and a longer canary of a second edit"));
  const entries = Array.from({ length: 4_000 }, (_, i) => ({
    ...{ conversation: "c1", epoch: "e1", seq: i + 1, record: "{}", unsearchable: true as const },
    ...(i < 300 ? { parts: { content: i % 2 === 0 ? "gone" : null } } : {}),
  }));
  for (let from = 0; from < entries.length; from += 1_000) await store.rewrite(entries.slice(from, from + 1_000));
  // It writes and reads on meanwhile.
  const later = { ...said(5_000, "later"), seq: 5_000 };
  expect(await store.scrub()).toEqual({ more: true });
  expect(await store.write([later])).toMatchObject({ added: 1 });
  await eventually(async () => expect(await store.scrub()).toEqual({ more: false }));
  for (const file of [path, `${path}-wal`]) expect(readFileSync(file).includes("canary")).toBe(false);
});

test("parts are there in an archive of the schema before them, and its entries still are", async () => {
  await using world = await setup();
  await world.store.write(entries(1, 3));
  await world.store.close();
  const database = new Database(world.path);
  database.run("DROP VIEW parts");
  database.run("DROP TABLE timeline_parts");
  database.run("DROP TABLE timeline_words");
  database.run("DROP INDEX timeline_entries_timed");
  database.run("PRAGMA user_version = 1");
  database.close();
  const again = await openArchive(`sqlite://${world.path}`);
  await again.write([entry(4, { kind: "edit", fold: { target: 1, parts: { content: "a" } } })]);
  const page = await again.history({
    conversation: "c1",
    epoch: "e1",
    limit: 9,
    newest: false,
    messagesOnly: false,
    parts: ["content"],
  });
  expect(page.map(({ seq, parts }) => [seq, parts?.content])).toEqual([
    [1, "a"],
    [2, undefined],
    [3, undefined],
    [4, undefined],
  ]);
  await again.close();
});

test("words are found in an archive of the schema before the search's indexes", async () => {
  await using world = await setup();
  await world.store.write([entry(1, { text: "once upon" }), entry(2, { text: "a time" })]);
  await world.store.close();
  const database = new Database(world.path);
  database.run("DROP INDEX timeline_entries_timed");
  database.run("PRAGMA user_version = 3");
  database.close();
  const again = await openArchive(`sqlite://${world.path}`);
  const found = await again.search({ timelines: [{ conversation: "c1", epoch: "e1" }], text: "time", limit: 9 });
  expect(found).toEqual([{ conversation: "c1", seq: 2, at: 1_002 }]);
  await again.close();
});

test("of a schema that is not its own is refused, and says which it is", async () => {
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
