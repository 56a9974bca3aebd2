/**
 * What erasure asks of the SQLite archive: to find what holds a text, in every row there is; to rewrite it; and to leave no bytes of
 * it in the file. The latter takes a VACUUM: PRAGMA secure_delete was tried, and left copies in pages that had been split.
 */

import type { Database } from "bun:sqlite";
import { AppError } from "../errors.ts";
import type { FindPage, Rewrite } from "./contract.ts";
import { createWordsRemover, mergeWords } from "./sqlite-words.ts";
import type { ArchiveStore } from "./store.ts";

type Bounds = [timeline: number, seq: number, toTimeline: number, toSeq: number];

const BEGIN = { timeline: 0, seq: 0 };
const END = { timeline: Number.MAX_SAFE_INTEGER, seq: Number.MAX_SAFE_INTEGER };

/** The `count`th entry from a place on: an index search that reads no record. */
const PAGE_END = `SELECT timeline, seq FROM timeline_entries WHERE (timeline, seq) > (?, ?)
  ORDER BY timeline, seq LIMIT 1 OFFSET ?`;

const WITHIN = "(timeline, seq) > (?1, ?2) AND (timeline, seq) <= (?3, ?4)";

const RECORDS = `SELECT conversation, epoch, seq, kind, record FROM timeline_entries JOIN timelines ON number = timeline
  WHERE ${WITHIN} AND instr(record, ?5) > 0`;

const PARTS = `SELECT conversation, epoch, seq, part, text FROM timeline_parts JOIN timelines ON number = timeline
  WHERE ${WITHIN} AND text IS NOT NULL AND (part = ?6 OR instr(text, ?5) > 0)`;

/** Its methods of the store; and what every write waits for: that the database is not vacuumed. */
export function createRewriting(database: Database, path: string) {
  const pageEnd = database.prepare<{ timeline: number; seq: number }, [number, number, number]>(PAGE_END);
  const records = database.prepare<FindPage["records"][number], [...Bounds, string]>(RECORDS);
  const parts = database.prepare<FindPage["parts"][number], [...Bounds, string, string]>(PARTS);
  const rewriteAll = createRewriter(database);
  let vacuum: "none" | "running" | "failed" | "done" = "none";
  let failure: unknown;
  let vacuuming = Promise.resolve();

  function startVacuum(): void {
    vacuum = "running";
    vacuuming = vacuumAside(path).then(
      () => {
        vacuum = "done";
      },
      (error: unknown) => {
        vacuum = "failed";
        failure = error;
      },
    );
  }

  const store: Pick<ArchiveStore, "find" | "rewrite" | "scrub"> = {
    async find({ text, part, from = BEGIN, count }) {
      const next = pageEnd.get(from.timeline, from.seq, count - 1) ?? undefined;
      const to = next ?? END;
      const bounds: Bounds = [from.timeline, from.seq, to.timeline, to.seq];
      const found = { records: records.all(...bounds, text), parts: parts.all(...bounds, text, part) };
      return next ? { ...found, next } : found;
    },
    async rewrite(entries) {
      await vacuuming;
      vacuum = "none";
      rewriteAll.immediate(entries);
    },
    async scrub() {
      if (vacuum === "failed") {
        vacuum = "none";
        throw new AppError("OVERLOADED", "The archive could not be vacuumed: is the disk full?", {
          retryAfterMs: 5_000,
          cause: failure,
        });
      }
      if (vacuum === "none" && !mergeWords(database)) startVacuum();
      return { more: vacuum !== "done" };
    },
  };
  return { store, vacuumed: () => vacuuming };
}

/** In a thread of its own: 20 s per GB, in which history is read as ever. */
function vacuumAside(path: string): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const thread = new Worker(new URL("./sqlite-vacuum.ts", import.meta.url).href);
  thread.onmessage = () => resolve();
  thread.onerror = (event) => reject(new Error(event.message));
  // Whatever ended it: nobody writes before one of the three is heard.
  thread.addEventListener("close", () => reject(new Error("the thread ended")));
  thread.postMessage(path);
  return promise.finally(() => thread.terminate());
}

function createRewriter(database: Database) {
  const find = database.prepare<{ number: number }, [string, string]>(
    "SELECT number FROM timelines WHERE conversation = ? AND epoch = ?",
  );
  const setRecord = database.prepare("UPDATE timeline_entries SET record = ? WHERE timeline = ? AND seq = ?");
  const setPart = database.prepare(
    "INSERT INTO timeline_parts VALUES (?1, ?2, ?3, ?2, ?4) ON CONFLICT (timeline, seq, part) DO UPDATE SET text = excluded.text",
  );
  const removePart = database.prepare("DELETE FROM timeline_parts WHERE timeline = ? AND seq = ? AND part = ?");
  const removeWords = createWordsRemover(database);

  return database.transaction((entries: readonly Rewrite[]): void => {
    for (const { conversation, epoch, seq, record, parts = {}, unsearchable } of entries) {
      const timeline = find.get(conversation, epoch)?.number;
      if (timeline === undefined) continue;
      if (record !== undefined) setRecord.run(record, timeline, seq);
      for (const [part, text] of Object.entries(parts)) {
        if (text === null) removePart.run(timeline, seq, part);
        else setPart.run(timeline, seq, part, text);
      }
      if (unsearchable) removeWords(timeline, seq);
    }
  });
}
