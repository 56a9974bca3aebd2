/** What is PostgreSQL's own: plans, schema, and what happens when the server goes or hangs. The contract is in store.test.ts. */

import { afterAll, describe, expect, test } from "bun:test";
import { SQL } from "bun";
import { openConnections } from "../../lib/archive/connections.ts";
import { type ArchiveStore, openArchive } from "../../lib/archive/index.ts";
import { historyQuery } from "../../lib/archive/postgres.ts";
import { entries, entry } from "../support/archive.ts";
import { eventually } from "../support/eventually.ts";
import { startTestPostgres, type TestPostgres } from "../support/postgres.ts";

const postgres = await startTestPostgres();
afterAll(() => postgres?.stop());

const RANGE = { conversation: "c1", epoch: "e1", limit: 9, newest: false, messagesOnly: false };

/** Nothing where there is no server: startTestPostgres has said so. */
describe.each(postgres ? [postgres] : [])("PostgreSQL", (server) => {
  test("a history page follows the primary key: no sort, no scan", async () => {
    await using world = await setup(server);
    for (let c = 0; c < 4; c++) await world.store.write(entries(1, 5_000, { conversation: `c${c}` }));
    await using sql = new SQL(world.url);
    await sql.unsafe("ANALYZE");
    for (const newest of [true, false]) {
      for (const messagesOnly of [true, false]) {
        const query = historyQuery({ newest, messagesOnly });
        const rows = await sql.unsafe(`EXPLAIN ${query}`, ["c1", "e1", 2_000, 4_000, 50]);
        const plan = rows.map((row: Record<string, string>) => row["QUERY PLAN"]).join("\n");
        expect(plan).toMatch(/Index Scan (Backward )?using timeline_entries_pkey/);
        expect(plan).not.toMatch(/Sort|Seq Scan on timeline_entries/);
      }
    }
  });

  test("a database of another schema version or encoding is refused, and the message says which", async () => {
    await using world = await setup(server);
    await using sql = new SQL(world.url);
    await sql.unsafe("UPDATE archive_schema SET version = 7");
    await expect(openArchive(world.url)).rejects.toMatchObject({
      code: "INVALID",
      message: expect.stringContaining("schema 7"),
    });

    await sql.unsafe("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1'");
    const latin = world.url.replace(/[^/]+$/, "latin");
    await expect(openArchive(latin)).rejects.toMatchObject({
      code: "INVALID",
      message: expect.stringContaining("LATIN1"),
    });
  });

  test("many writers of the same timelines at once leave one of each entry", async () => {
    await using world = await setup(server);
    const other = await openArchive(world.url);
    const stores = [world.store, other];
    const write = async (store: ArchiveStore, names: string[]) => {
      const list = names.flatMap((conversation) => entries(1, 20, { conversation }));
      // A dead-lock over new timelines is told as OVERLOADED; the ingest tries again, and so does this.
      // PostgreSQL takes a second to notice each dead-lock.
      await eventually(() => store.write(list));
    };
    const names = Array.from({ length: 12 }, (_, i) => `c${i}`);
    await Promise.all(
      Array.from({ length: 8 }, (_, i) => write(stores[i % 2]!, i % 3 === 0 ? names : names.slice(i % 5).toReversed())),
    );
    const rows = await world.select("SELECT conversation, max(seq) AS last, count(*) AS n FROM entries GROUP BY 1");
    expect(rows).toHaveLength(12);
    for (const row of rows) expect(row).toMatchObject({ last: "20", n: "20" });
    await other.close();
  });

  test("a server that is gone is OVERLOADED, which callers retry, and works again when it is back", async () => {
    await using world = await setup(server);
    await world.store.write(entries(1, 3));
    await server.kill();
    await expect(world.store.write([entry(4)])).rejects.toMatchObject({ code: "OVERLOADED" });
    await expect(world.store.history(RANGE)).rejects.toMatchObject({ code: "OVERLOADED" });
    await expect(openArchive(world.url)).rejects.toMatchObject({ code: "OVERLOADED" });

    await server.restart();
    await eventually(() => world.store.write([entry(4)]));
    expect((await world.store.history(RANGE)).map(({ seq }) => seq)).toEqual([1, 2, 3, 4]);
  });

  test("a server that hangs is OVERLOADED after a while, and the next call has new connections", async () => {
    await using world = await setup(server);
    const connections = openConnections(world.url, 300);
    const ask = () => connections.run((sql) => sql.unsafe("SELECT pg_sleep(0)"));
    // The first answer waits for a connection, too.
    await eventually(ask);
    await expect(connections.run((sql) => sql.unsafe("SELECT pg_sleep(10)"))).rejects.toMatchObject({
      code: "OVERLOADED",
    });
    await eventually(ask);
    await connections.close();
  });
});

async function setup(server: TestPostgres) {
  const place = await server.database();
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
