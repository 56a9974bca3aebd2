/** What is SQLite's own: plans, schema versions. The contract is in store.test.ts. */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { openArchive } from "../../lib/archive/index.ts";
import { historyQuery } from "../../lib/archive/sqlite.ts";
import { entries, entry, sqliteDatabase } from "../support/archive.ts";

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
