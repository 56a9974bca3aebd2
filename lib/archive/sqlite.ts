/**
 * The archive in one SQLite file.
 *
 *   timelines          number  conversation  epoch  last_seq  newest_seq  announced_seq  last_at
 *   timeline_entries   timeline (its number)  seq  kind  id  ordinal  record  committed_at
 *   timeline_parts     timeline  seq  part  as_of (the entry that set it)  text: what later entries made of an entry
 *   timeline_words     FTS5 by (timeline << 32 | 2^32 - 1 - seq): the words by which an entry is found, nothing else of it
 *   timeline_entries_timed   an index of entries by their time, for searches
 *   entries, parts     views of them, by conversation and epoch: what people and checkers read
 *
 * CPU per row, commits of 1000 rows of 200 bytes that lie evenly over so many conversations, 2 shared cores:
 *
 *                                                           13      100     1000 conversations
 *   this: a row by number, one prepared statement each      3.9     5.9     9.9 µs    288 bytes a row
 *   the same by INSERTs of 500 rows through Bun.SQL         6.3     9.6    15.9 µs    288
 *   conversation and epoch as text in every row             +0.7    +2.4    +3 µs     326
 *   text, WITHOUT ROWID                                                     +20 µs    332: 12 rows a leaf, which splits often
 *
 * What grows with the conversations is one dirty index leaf each per commit: larger commits are what helps (group-commit.ts).
 */

import { Database, type Statement } from "bun:sqlite";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { AppError } from "../errors.ts";
import type { ArchivedEntry } from "./contract.ts";
import { advance, joinParts, type PartRow, type TimelineRow, toState } from "./rows.ts";
import { createExpiry } from "./sqlite-expiry.ts";
import { createRewriting } from "./sqlite-rewrite.ts";
import { createSearch, createWordsWriter, SEARCH_SCHEMA, WORDS_SCHEMA } from "./sqlite-words.ts";
import type { ArchiveRange, ArchiveStore, NewEntry, WriteResult } from "./store.ts";

/** A reader of another process (a checker, a backup) holds a lock for moments. Longer is answered with an error and retried. */
const BUSY_TIMEOUT_MS = 1_000;
/** Index leaves of several thousand active conversations. SQLite's 2 MB made a commit read pages back that it had just written. */
const CACHE_KIB = 16 * 1024;
const SCHEMA_VERSION = 4;

const SCHEMA = `
CREATE TABLE timelines (
  number INTEGER PRIMARY KEY,
  conversation TEXT NOT NULL,
  epoch TEXT NOT NULL,
  last_seq INTEGER NOT NULL,
  newest_seq INTEGER NOT NULL,
  announced_seq INTEGER NOT NULL,
  last_at INTEGER NOT NULL,
  UNIQUE (conversation, epoch)
);
CREATE TABLE timeline_entries (
  timeline INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  kind TEXT NOT NULL,
  id TEXT NOT NULL,
  ordinal INTEGER NOT NULL,
  record TEXT NOT NULL,
  committed_at INTEGER NOT NULL,
  PRIMARY KEY (timeline, seq)
);
CREATE VIEW entries AS
  SELECT conversation, epoch, seq, kind, id, ordinal, record, committed_at
  FROM timeline_entries JOIN timelines ON number = timeline;`;

/** Beside the entries, not in their rows: few of them ever change, and an update would move a row of many. */
const PARTS_SCHEMA = `
CREATE TABLE timeline_parts (
  timeline INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  part TEXT NOT NULL,
  as_of INTEGER NOT NULL,
  text TEXT,
  PRIMARY KEY (timeline, seq, part)
) WITHOUT ROWID;
CREATE VIEW parts AS
  SELECT conversation, epoch, seq, part, as_of, text FROM timeline_parts JOIN timelines ON number = timeline;
`;

const TIMELINE_COLUMNS = `number, conversation, epoch, last_seq AS lastSeq, newest_seq AS newestSeq,
  announced_seq AS announcedSeq, last_at AS lastAt`;

/** A page of a timeline. The order follows the primary key in both directions: nothing is sorted. */
export function historyQuery({ newest, messagesOnly }: Pick<ArchiveRange, "newest" | "messagesOnly">): string {
  return `SELECT seq, kind, id, ordinal, record FROM timeline_entries
    WHERE timeline = (SELECT number FROM timelines WHERE conversation = ? AND epoch = ?) AND seq > ? AND seq < ?
    ${messagesOnly ? "AND kind = 'message'" : ""} ORDER BY seq ${newest ? "DESC" : "ASC"} LIMIT ?`;
}

const PARTS_QUERY = `SELECT seq, part, text FROM timeline_parts
  WHERE timeline = (SELECT number FROM timelines WHERE conversation = ? AND epoch = ?) AND seq BETWEEN ? AND ?
  AND text IS NOT NULL AND part IN (SELECT value FROM json_each(?))`;

export function openSqliteArchive(path: string): ArchiveStore {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const database = new Database(path, { create: true });
  database.run(`PRAGMA busy_timeout = ${BUSY_TIMEOUT_MS}`);
  database.run(`PRAGMA cache_size = -${CACHE_KIB}`);
  database.run("PRAGMA journal_mode = WAL");
  // Every commit is on disk before the group's checkpoint says so: NORMAL would lose the last ones at a power loss. FULL costs
  // 1.7 ms a commit here (40 rows: 1.9 ms instead of 0.2; 1000 rows: 4.3 instead of 3.4), which the spacing of commits bounds.
  database.run("PRAGMA synchronous = FULL");
  createSchema(database, path);
  const write = createWriter(database);
  const search = createSearch(database);
  const rewriting = createRewriting(database, path);
  const note = database.prepare(
    "UPDATE timelines SET announced_seq = max(announced_seq, ?) WHERE conversation = ? AND epoch = ?",
  );

  return {
    async write(entries) {
      await rewriting.vacuumed();
      return write.immediate(entries);
    },

    async history(range) {
      const { conversation, epoch, after = 0, before = Number.MAX_SAFE_INTEGER, limit } = range;
      const query = database.query<ArchivedEntry, (string | number)[]>(historyQuery(range));
      const page = query.all(conversation, epoch, after, before, limit);
      if (range.newest) page.reverse();
      return range.parts?.length ? withParts(database, range, page) : page;
    },

    search: async (given) => search(given),

    ...rewriting.store,
    ...createExpiry(database, rewriting.vacuumed),

    async unannounced({ idleSinceMs, from, count }) {
      const to = from + count;
      const timelines = database
        .query<TimelineRow, number[]>(
          `SELECT ${TIMELINE_COLUMNS} FROM timelines
            WHERE number > ? AND number <= ? AND last_seq > announced_seq AND last_at < ?`,
        )
        .all(from, to, idleSinceMs);
      const more = database.query("SELECT 1 FROM timelines WHERE number > ? LIMIT 1").get(to);
      return { timelines: timelines.map(toState), next: more ? to : 0 };
    },

    async noteAnnounced(timelines) {
      await rewriting.vacuumed();
      const noteAll = database.transaction(() => {
        for (const { conversation, epoch, lastSeq } of timelines) note.run(lastSeq, conversation, epoch);
      });
      noteAll.immediate();
    },

    async close() {
      await rewriting.vacuumed();
      database.close();
    },
  };
}

function createSchema(database: Database, path: string): void {
  const create = database.transaction(() => {
    const { user_version: version } = database.query<{ user_version: number }, []>("PRAGMA user_version").get()!;
    if (version === 0) database.run(SCHEMA);
    if (version < 2) database.run(PARTS_SCHEMA);
    if (version < 3) database.run(WORDS_SCHEMA);
    if (version < 4) database.run(`${SEARCH_SCHEMA} PRAGMA user_version = ${SCHEMA_VERSION};`);
    else if (version !== SCHEMA_VERSION) {
      throw new AppError("INVALID", `${path} is an archive of schema ${version}; this version reads ${SCHEMA_VERSION}`);
    }
  });
  // Two processes may come at once: the second waits for the lock and then finds it done.
  create.immediate();
}

function withParts(database: Database, { conversation, epoch, parts }: ArchiveRange, page: ArchivedEntry[]) {
  if (page.length === 0) return page;
  const found = database
    .query<PartRow, (string | number)[]>(PARTS_QUERY)
    .all(conversation, epoch, page[0]!.seq, page.at(-1)!.seq, JSON.stringify(parts));
  return joinParts(page, found);
}

/** One transaction; a row costs one prepared statement, a timeline two. */
function createWriter(database: Database) {
  const find = database.prepare<TimelineRow, [string, string]>(
    `SELECT ${TIMELINE_COLUMNS} FROM timelines WHERE conversation = ? AND epoch = ?`,
  );
  const create = database.prepare<TimelineRow, [string, string]>(
    `INSERT INTO timelines (conversation, epoch, last_seq, newest_seq, announced_seq, last_at)
      VALUES (?, ?, 0, 0, 0, 0) RETURNING ${TIMELINE_COLUMNS}`,
  );
  const update = database.prepare("UPDATE timelines SET last_seq = ?, newest_seq = ?, last_at = ? WHERE number = ?");
  const insert = database.prepare(
    "INSERT INTO timeline_entries VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (timeline, seq) DO NOTHING",
  );
  const setPart = database.prepare(
    `INSERT INTO timeline_parts VALUES (?, ?, ?, ?, ?) ON CONFLICT (timeline, seq, part)
      DO UPDATE SET as_of = excluded.as_of, text = excluded.text WHERE excluded.as_of > as_of`,
  );
  const setWords = createWordsWriter(database);
  const idAt = database.prepare<{ id: string }, [number, number]>(
    "SELECT id FROM timeline_entries WHERE timeline = ? AND seq = ?",
  );

  return database.transaction((entries: readonly NewEntry[]): WriteResult => {
    const timelines = new Map<string, TimelineRow>();
    let added = 0;
    let clashes = 0;
    for (const entry of entries) {
      const { conversation, epoch, seq, kind, id, ordinal, record, committedAt, fold } = entry;
      const place = `${conversation}\n${epoch}`;
      let timeline = timelines.get(place);
      if (!timeline) {
        timeline = find.get(conversation, epoch) ?? create.get(conversation, epoch)!;
        timelines.set(place, timeline);
      }
      if (insert.run(timeline.number, seq, kind, id, ordinal, record, committedAt).changes > 0) {
        added += 1;
        if (fold)
          for (const part in fold.parts) setPart.run(timeline.number, fold.target, part, seq, fold.parts[part]!);
        setWords(timeline.number, entry);
      } else if (idAt.get(timeline.number, seq)!.id !== id) clashes += 1;
      advance(timeline, { seq, committedAt });
    }
    for (const timeline of timelines.values()) {
      if (timeline.lastSeq < timeline.newestSeq) skipToHole(timeline, idAt);
      update.run(timeline.lastSeq, timeline.newestSeq, timeline.lastAt, timeline.number);
    }
    return { added, clashes, timelines: [...timelines.values()].map(toState) };
  });
}

/** A timeline with a hole before its newest entry: if the hole has been filled, what lies behind it counts from now on. */
function skipToHole(timeline: TimelineRow, idAt: Statement<{ id: string }, [number, number]>): void {
  while (timeline.lastSeq < timeline.newestSeq && idAt.get(timeline.number, timeline.lastSeq + 1)) {
    timeline.lastSeq += 1;
  }
}
