/** Entries that the SQLite archive keeps no longer. Their pages are used again; the file does not shrink. */

import type { Database } from "bun:sqlite";
import { createWordsRemover } from "./sqlite-words.ts";
import type { ArchiveStore, ExpiredTimeline } from "./store.ts";

/** Of one transaction: some 30 ms. */
const REMOVED_MAX = 1_000;

/** The first entry of a timeline says whether anything of it is expired; the first that is not, up to where. */
const EXPIRED = `SELECT conversation, epoch, coalesce(
    (SELECT seq FROM timeline_entries WHERE timeline = number AND committed_at >= ?3 ORDER BY seq LIMIT 1) - 1,
    newest_seq) AS through
  FROM timelines WHERE number > ?1 AND number <= ?2
    AND (SELECT committed_at FROM timeline_entries WHERE timeline = number ORDER BY seq LIMIT 1) < ?3`;

const OLDEST = "SELECT seq FROM timeline_entries WHERE timeline = ? AND seq <= ? ORDER BY seq LIMIT ?";

/** Every write waits for `vacuumed` (sqlite-rewrite.ts). */
export function createExpiry(
  database: Database,
  vacuumed: () => Promise<void>,
): Pick<ArchiveStore, "expired" | "remove"> {
  const select = database.prepare<ExpiredTimeline, [number, number, number]>(EXPIRED);
  const more = database.prepare<unknown, [number]>("SELECT 1 FROM timelines WHERE number > ? LIMIT 1");
  const find = database.prepare<{ number: number }, [string, string]>(
    "SELECT number FROM timelines WHERE conversation = ? AND epoch = ?",
  );
  const oldest = database.prepare<{ seq: number }, [number, number, number]>(OLDEST);
  const removeEntries = database.prepare("DELETE FROM timeline_entries WHERE timeline = ? AND seq <= ?");
  const removeParts = database.prepare("DELETE FROM timeline_parts WHERE timeline = ? AND seq <= ?");
  const removeWords = createWordsRemover(database);

  /** Up to REMOVED_MAX of them; whether there are more. */
  const removeSome = database.transaction((timeline: number, through: number): boolean => {
    const found = oldest.all(timeline, through, REMOVED_MAX);
    for (const { seq } of found) removeWords(timeline, seq);
    const last = found.length < REMOVED_MAX ? through : found.at(-1)!.seq;
    removeParts.run(timeline, last);
    removeEntries.run(timeline, last);
    return found.length === REMOVED_MAX;
  });

  return {
    async expired({ beforeMs, from, count }) {
      const to = from + count;
      return { timelines: select.all(from, to, beforeMs), next: more.get(to) ? to : 0 };
    },
    async remove(timelines) {
      for (const { conversation, epoch, through } of timelines) {
        const timeline = find.get(conversation, epoch)?.number;
        if (timeline === undefined) continue;
        do {
          await vacuumed();
          // The thread is others', too.
          await Bun.sleep(0);
        } while (removeSome.immediate(timeline, through));
      }
    },
  };
}
