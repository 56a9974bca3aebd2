/** The archive group over a PostgreSQL server that goes away and comes back. */

import { afterAll, describe, expect, test } from "bun:test";
import { openArchive } from "../../lib/archive/index.ts";
import { systemClock } from "../../lib/clock.ts";
import { openQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { createIngest } from "../../workers/archive/ingest.ts";
import { eventually } from "../support/eventually.ts";
import { makeChat } from "../support/im.ts";
import { startTestPostgres } from "../support/postgres.ts";
import { openTestStore } from "../support/redis.ts";

const postgres = await startTestPostgres();
afterAll(() => postgres?.stop());

/** Nothing where there is no server: startTestPostgres has said so. */
describe.each(postgres ? [postgres] : [])("the archive group", (server) => {
  test("gives nothing up while its server is away, and writes each entry once when it is back", async () => {
    await using store = await openTestStore("archive-postgres");
    await using database = await server.database();
    const archive = await openArchive(database.url);
    const { redis, keys, metrics } = store;
    const chat = makeChat(store, (range) => archive.history(range));
    const queue = openQueue({ redis, keys, clock: systemClock, log: silentLog, metrics, member: "t.archive" });
    const ingest = createIngest({
      ...{ store: archive, queue, clock: systemClock, log: silentLog, metrics },
      onWritten: () => undefined,
    });
    await ingest.start();
    const groups = await Promise.all(Array.from({ length: 4 }, () => chat.group("ann", "bob")));
    const talk = async () => {
      for (let i = 0; i < 20; i++) await Promise.all(groups.map((group) => chat.send("ann", group, `text ${i}`)));
    };
    const held = async () => {
      const rows = await database.select("SELECT conversation, seq FROM entries ORDER BY conversation, seq");
      return rows.map(({ conversation, seq }) => `${conversation}/${seq}`);
    };
    const expected = (last: number) =>
      groups.toSorted().flatMap((group) => Array.from({ length: last }, (_, i) => `${group}/${i + 1}`));

    await talk();
    await eventually(async () => expect(await held()).toEqual(expected(20)));
    await server.kill();
    await talk();
    await server.restart();
    await talk();

    await eventually(async () => expect(await held()).toEqual(expected(60)));
    await ingest.stop(AbortSignal.abort());
    await archive.close();
  });
});
