/** Entries that the PostgreSQL archive keeps no longer. */

import { type Connections, rowsOf } from "./connections.ts";
import type { ArchiveStore, ExpiredTimeline } from "./store.ts";

/** The first entry of a timeline says whether anything of it is expired; the first that is not, up to where. */
const EXPIRED = `SELECT conversation, epoch, coalesce(
    (SELECT seq FROM timeline_entries WHERE timeline = number AND committed_at >= $3::bigint ORDER BY seq LIMIT 1) - 1,
    newest_seq)::float8 AS through
  FROM timelines WHERE number > $1 AND number <= $2
    AND (SELECT committed_at FROM timeline_entries WHERE timeline = number ORDER BY seq LIMIT 1) < $3::bigint`;

const removal = (table: string) => `DELETE FROM ${table} AS old
  USING ${rowsOf("conversation text, epoch text, through bigint")} JOIN timelines USING (conversation, epoch)
  WHERE old.timeline = number AND old.seq <= given.through`;

const REMOVALS = ["timeline_words", "timeline_parts", "timeline_entries"].map(removal);

export function createExpiry(connections: Connections): Pick<ArchiveStore, "expired" | "remove"> {
  return {
    expired: ({ beforeMs, from, count }) =>
      connections.run(async (sql) => {
        const to = from + count;
        const timelines: ExpiredTimeline[] = [...(await sql.unsafe(EXPIRED, [from, to, beforeMs]))];
        const more = await sql.unsafe("SELECT 1 FROM timelines WHERE number > $1 LIMIT 1", [to]);
        return { timelines, next: more.length > 0 ? to : 0 };
      }),
    async remove(timelines) {
      // A timeline each: a transaction holds no more locks than it must.
      for (const timeline of timelines) {
        await connections.transaction(async (sql) => {
          for (const statement of REMOVALS) await sql.unsafe(statement, [JSON.stringify([timeline])]);
        });
      }
    },
  };
}
