/**
 * The archive in a PostgreSQL database (encoding UTF-8), in the tables and views of sqlite.ts, found by the role's search_path.
 * Rows travel as one JSON parameter per statement: every batch is the same prepared statement, whatever its size.
 *
 *   timeline_words     timeline  seq  as_of (the entry that set them)  at (when the entry was committed)  words: by what it is found
 *
 *   a write    BEGIN · timelines made · locked · entries · parts · words · timelines moved · COMMIT
 *
 * Timelines are locked, and new ones made, in the order of their names, so two writers wait for each other. Making them first
 * would spend a number on every one that is there, and unannounced() pages by number; should a new timeline between two writers
 * dead-lock them after all, the server breaks one off, which is tried again.
 */

import type { SQL } from "bun";
import { AppError } from "../errors.ts";
import { wordsOf } from "../words.ts";
import { type Connections, openConnections, rowsOf } from "./connections.ts";
import { type ArchivedEntry, type Found, SEARCHED_WORDS_MAX } from "./contract.ts";
import { createExpiry } from "./postgres-expiry.ts";
import { createRewriting } from "./postgres-rewrite.ts";
import { advance, joinParts, type PartRow, type TimelineRow, toState } from "./rows.ts";
import type { ArchiveRange, ArchiveStore, NewEntry, WriteResult } from "./store.ts";

const SCHEMA_VERSION = 1;
/** Of the advisory lock under which one of several processes makes the tables: any number that no other product takes. */
const SCHEMA_LOCK = 7_365_161;

const SCHEMA = `
CREATE TABLE archive_schema (version INTEGER NOT NULL);
INSERT INTO archive_schema VALUES (${SCHEMA_VERSION});
CREATE TABLE timelines (
  number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  conversation TEXT COLLATE "C" NOT NULL,
  epoch TEXT COLLATE "C" NOT NULL,
  last_seq BIGINT NOT NULL DEFAULT 0,
  newest_seq BIGINT NOT NULL DEFAULT 0,
  announced_seq BIGINT NOT NULL DEFAULT 0,
  last_at BIGINT NOT NULL DEFAULT 0,
  UNIQUE (conversation, epoch)
);
CREATE TABLE timeline_entries (
  timeline BIGINT NOT NULL,
  seq BIGINT NOT NULL,
  kind TEXT NOT NULL,
  id TEXT NOT NULL,
  ordinal BIGINT NOT NULL,
  record TEXT NOT NULL,
  committed_at BIGINT NOT NULL,
  PRIMARY KEY (timeline, seq)
);
CREATE TABLE timeline_parts (
  timeline BIGINT NOT NULL,
  seq BIGINT NOT NULL,
  part TEXT NOT NULL,
  as_of BIGINT NOT NULL,
  text TEXT,
  PRIMARY KEY (timeline, seq, part)
);
CREATE TABLE timeline_words (
  timeline BIGINT NOT NULL,
  seq BIGINT NOT NULL,
  as_of BIGINT NOT NULL,
  at BIGINT NOT NULL,
  words TSVECTOR NOT NULL,
  PRIMARY KEY (timeline, seq)
);
CREATE INDEX timeline_words_words ON timeline_words USING gin (words);
CREATE VIEW entries AS
  SELECT conversation, epoch, seq, kind, id, ordinal, record, committed_at
  FROM timeline_entries JOIN timelines ON number = timeline;
CREATE VIEW parts AS
  SELECT conversation, epoch, seq, part, as_of, text FROM timeline_parts JOIN timelines ON number = timeline;`;

// BIGINT comes as text, DOUBLE PRECISION as a number that holds every safe integer.
const TIMELINE_COLUMNS = `number::float8, conversation, epoch, last_seq::float8 AS "lastSeq",
  newest_seq::float8 AS "newestSeq", announced_seq::float8 AS "announcedSeq", last_at::float8 AS "lastAt"`;

const CREATE_TIMELINES = `INSERT INTO timelines (conversation, epoch)
  SELECT conversation, epoch FROM ${rowsOf("conversation text, epoch text")}
  ORDER BY conversation COLLATE "C", epoch COLLATE "C" ON CONFLICT (conversation, epoch) DO NOTHING`;

const LOCK_TIMELINES = `SELECT ${TIMELINE_COLUMNS} FROM timelines
  WHERE (conversation, epoch) IN (SELECT conversation, epoch FROM ${rowsOf("conversation text, epoch text")})
  ORDER BY timelines.conversation, timelines.epoch FOR UPDATE`;

const UPDATE_TIMELINES = `UPDATE timelines SET last_seq = "lastSeq", newest_seq = "newestSeq", last_at = "lastAt"
  FROM ${rowsOf('number bigint, "lastSeq" bigint, "newestSeq" bigint, "lastAt" bigint')}
  WHERE timelines.number = given.number`;

const INSERT_ENTRIES = `INSERT INTO timeline_entries
  SELECT timeline, seq, kind, id, ordinal, record, "committedAt"
  FROM ${rowsOf('timeline bigint, seq bigint, kind text, id text, ordinal bigint, record text, "committedAt" bigint')}
  ON CONFLICT (timeline, seq) DO NOTHING RETURNING timeline::float8, seq::float8`;

const IDS = `SELECT timeline::float8, seq::float8, timeline_entries.id
  FROM timeline_entries JOIN ${rowsOf("timeline bigint, seq bigint")} USING (timeline, seq)`;

const SET_PARTS = `INSERT INTO timeline_parts
  SELECT timeline, seq, part, "asOf", text
  FROM ${rowsOf('timeline bigint, seq bigint, part text, "asOf" bigint, text text')}
  ON CONFLICT (timeline, seq, part) DO UPDATE SET as_of = excluded.as_of, text = excluded.text
  WHERE excluded.as_of > timeline_parts.as_of`;

// The vector of lib/words.ts itself: PostgreSQL's own parser would find other words in a text than SQLite does.
const SET_WORDS = `INSERT INTO timeline_words
  SELECT timeline, seq, "asOf", at, array_to_tsvector(ARRAY(SELECT json_array_elements_text(given.words)))
  FROM ${rowsOf('timeline bigint, seq bigint, "asOf" bigint, at bigint, words json')}
  ON CONFLICT (timeline, seq) DO UPDATE SET
    words = CASE WHEN excluded.as_of > timeline_words.as_of THEN excluded.words ELSE timeline_words.words END,
    as_of = greatest(excluded.as_of, timeline_words.as_of), at = least(excluded.at, timeline_words.at)`;

/** Past the index of words, which serves everybody's conversations: then each hit's timeline is looked at. */
const SEARCH = `SELECT timelines.conversation, seq::float8, at::float8
  FROM ${rowsOf("conversation text, epoch text")}
  JOIN timelines USING (conversation, epoch) JOIN timeline_words ON timeline = number
  WHERE words @@ $2::text::tsquery
    AND ($3::bigint IS NULL OR (at, timelines.conversation, timeline_words.seq) < ($3, $4 COLLATE "C", $5::bigint))
  ORDER BY timeline_words.at DESC, timelines.conversation DESC, timeline_words.seq DESC LIMIT $6`;

/** The end of the run of entries that begins at `$2`, if there is one. */
const RUN_END = `SELECT seq::float8 FROM timeline_entries AS here
  WHERE timeline = $1 AND seq >= $2
    AND EXISTS (SELECT 1 FROM timeline_entries WHERE timeline = $1 AND seq = $2)
    AND NOT EXISTS (SELECT 1 FROM timeline_entries AS next WHERE next.timeline = $1 AND next.seq = here.seq + 1)
  ORDER BY seq LIMIT 1`;

const NOTE_ANNOUNCED = `WITH held AS (
    SELECT number, "lastSeq" FROM timelines
      JOIN ${rowsOf('conversation text, epoch text, "lastSeq" bigint')} USING (conversation, epoch)
      ORDER BY timelines.conversation, timelines.epoch FOR UPDATE OF timelines)
  UPDATE timelines SET announced_seq = greatest(announced_seq, "lastSeq") FROM held WHERE timelines.number = held.number`;

const TIMELINE = "(SELECT number FROM timelines WHERE conversation = $1 AND epoch = $2)";

/** A page of a timeline. The order follows the primary key in both directions: nothing is sorted. */
export function historyQuery({ newest, messagesOnly }: Pick<ArchiveRange, "newest" | "messagesOnly">): string {
  return `SELECT seq::float8, kind, id, ordinal::float8, record FROM timeline_entries
    WHERE timeline = ${TIMELINE} AND seq > $3::bigint AND seq < $4::bigint ${messagesOnly ? "AND kind = 'message'" : ""}
    ORDER BY timeline_entries.seq ${newest ? "DESC" : "ASC"} LIMIT $5`;
}

const PARTS_QUERY = `SELECT seq::float8, part, text FROM timeline_parts
  WHERE timeline = ${TIMELINE} AND seq BETWEEN $3 AND $4 AND text IS NOT NULL
    AND part IN (SELECT json_array_elements_text($5::text::json))`;

export async function openPostgresArchive(url: string): Promise<ArchiveStore> {
  const connections = openConnections(url);
  try {
    await createSchema(connections);
  } catch (error) {
    await connections.close();
    throw error;
  }

  return {
    write: (entries) => connections.transaction((sql) => write(sql, entries)),

    async history(range) {
      const { conversation, epoch, after = 0, before = Number.MAX_SAFE_INTEGER, limit } = range;
      const values = [conversation, epoch, after, before, limit];
      const page: ArchivedEntry[] = await connections.run(async (sql) => [
        ...(await sql.unsafe(historyQuery(range), values)),
      ]);
      if (range.newest) page.reverse();
      if (!range.parts?.length || page.length === 0) return page;
      const place = [conversation, epoch, page[0]!.seq, page.at(-1)!.seq, JSON.stringify(range.parts)];
      const found: PartRow[] = await connections.run((sql) => sql.unsafe(PARTS_QUERY, place));
      return joinParts(page, found);
    },

    async search({ timelines, text, before, limit }) {
      const words = wordsOf(text).slice(0, SEARCHED_WORDS_MAX);
      if (words.length === 0) return [];
      // Quoted, and without a quote or backslash in it, a word is never syntax.
      const query = words.map((word) => `'${word}'`).join(" & ");
      const after = [before?.at ?? null, before?.conversation ?? null, before?.seq ?? null];
      const values = [JSON.stringify(timelines), query, ...after, limit];
      const found: Found[] = await connections.run(async (sql) => [...(await sql.unsafe(SEARCH, values))]);
      return found;
    },

    ...createRewriting(connections),
    ...createExpiry(connections),

    async unannounced({ idleSinceMs, from, count }) {
      const to = from + count;
      return connections.run(async (sql) => {
        const timelines: TimelineRow[] = await sql.unsafe(
          `SELECT ${TIMELINE_COLUMNS} FROM timelines
            WHERE number > $1 AND number <= $2 AND last_seq > announced_seq AND last_at < $3 ORDER BY timelines.number`,
          [from, to, idleSinceMs],
        );
        const more = await sql.unsafe("SELECT 1 FROM timelines WHERE number > $1 LIMIT 1", [to]);
        return { timelines: timelines.map(toState), next: more.length > 0 ? to : 0 };
      });
    },

    noteAnnounced: (timelines) =>
      connections.run(async (sql) => {
        await sql.unsafe(NOTE_ANNOUNCED, [JSON.stringify(timelines)]);
      }),

    close: connections.close,
  };
}

async function createSchema(connections: Connections): Promise<void> {
  await connections.transaction(async (sql) => {
    // Two processes may come at once: the second waits and then finds it done.
    await sql.unsafe("SELECT pg_advisory_xact_lock($1)", [SCHEMA_LOCK]);
    const [facts] = await sql.unsafe(
      "SELECT getdatabaseencoding() AS encoding, to_regclass('archive_schema') IS NOT NULL AS exists",
    );
    if (facts.encoding !== "UTF8") {
      throw new AppError("INVALID", `the archive's database has the encoding ${facts.encoding}; it must be UTF8`);
    }
    // Without parameters: several statements at once.
    if (!facts.exists) await sql.unsafe(SCHEMA);
    const [found] = await sql.unsafe("SELECT version FROM archive_schema");
    if (found?.version !== SCHEMA_VERSION) {
      const message = `the database holds an archive of schema ${found?.version}; this version reads ${SCHEMA_VERSION}`;
      throw new AppError("INVALID", message);
    }
  });
}

/** An entry with the number of its timeline. */
type PlacedEntry = NewEntry & { readonly timeline: number };

async function write(sql: SQL, entries: readonly NewEntry[]): Promise<WriteResult> {
  const timelines = await lockTimelines(sql, entries);
  const placed = entries.map((entry) => ({ ...entry, timeline: timelines.get(timelineOf(entry))!.number }));
  // One statement must not name a place twice; of what this write itself repeats the first counts, as it does in the table.
  const firsts = new Map<string, PlacedEntry>();
  for (const entry of placed) if (!firsts.has(placeOf(entry))) firsts.set(placeOf(entry), entry);
  const inserted: Place[] = await sql.unsafe(INSERT_ENTRIES, [JSON.stringify([...firsts.values()])]);
  const added = new Set(inserted.map(placeOf));
  const news = [...firsts.values()].filter((entry) => added.has(placeOf(entry)));
  await setParts(sql, news);
  await setWords(sql, news);
  const repeated = placed.filter((entry) => !added.has(placeOf(entry)) || firsts.get(placeOf(entry)) !== entry);

  for (const entry of entries) advance(timelines.get(timelineOf(entry))!, entry);
  for (const timeline of timelines.values()) {
    if (timeline.lastSeq < timeline.newestSeq) await skipToHole(sql, timeline);
  }
  await sql.unsafe(UPDATE_TIMELINES, [JSON.stringify([...timelines.values()])]);
  return {
    added: added.size,
    clashes: await countClashes(sql, repeated),
    timelines: [...timelines.values()].map(toState),
  };
}

type Place = Pick<PlacedEntry, "timeline" | "seq">;
const placeOf = ({ timeline, seq }: Place) => `${timeline}/${seq}`;
const timelineOf = ({ conversation, epoch }: Pick<NewEntry, "conversation" | "epoch">) => `${conversation}\n${epoch}`;

async function lockTimelines(sql: SQL, entries: readonly NewEntry[]): Promise<Map<string, TimelineRow>> {
  const names = new Map(
    entries.map((entry) => [timelineOf(entry), { conversation: entry.conversation, epoch: entry.epoch }]),
  );
  const given = [JSON.stringify([...names.values()])];
  let rows: TimelineRow[] = await sql.unsafe(LOCK_TIMELINES, given);
  if (rows.length < names.size) {
    await sql.unsafe(CREATE_TIMELINES, given);
    rows = await sql.unsafe(LOCK_TIMELINES, given);
  }
  return new Map(rows.map((row) => [timelineOf(row), row]));
}

/** Of several entries that set one part of one target, the last counts. */
async function setParts(sql: SQL, entries: readonly PlacedEntry[]): Promise<void> {
  const rows = new Map<string, { timeline: number; seq: number; part: string; asOf: number; text: string | null }>();
  for (const { timeline, seq: asOf, fold } of entries) {
    if (!fold) continue;
    for (const [part, text] of Object.entries(fold.parts)) {
      const place = `${timeline}/${fold.target}/${part}`;
      if ((rows.get(place)?.asOf ?? 0) < asOf) rows.set(place, { timeline, seq: fold.target, part, asOf, text });
    }
  }
  if (rows.size > 0) await sql.unsafe(SET_PARTS, [JSON.stringify([...rows.values()])]);
}

/** As setParts, of the words by which entries are found. */
async function setWords(sql: SQL, entries: readonly PlacedEntry[]): Promise<void> {
  const rows = new Map<string, Place & { asOf: number; at: number; words: string[] }>();
  for (const { timeline, seq: asOf, committedAt, fold, text } of entries) {
    if (text === undefined) continue;
    const seq = fold?.target ?? asOf;
    const place = placeOf({ timeline, seq });
    const known = rows.get(place);
    const at = Math.min(known?.at ?? committedAt, committedAt);
    if (known && known.asOf > asOf) rows.set(place, { ...known, at });
    else rows.set(place, { timeline, seq, asOf, at, words: wordsOf(text) });
  }
  if (rows.size > 0) await sql.unsafe(SET_WORDS, [JSON.stringify([...rows.values()])]);
}

/** How many of them another entry holds the place of. */
async function countClashes(sql: SQL, repeated: readonly PlacedEntry[]): Promise<number> {
  if (repeated.length === 0) return 0;
  const places = new Map(repeated.map(({ timeline, seq }) => [placeOf({ timeline, seq }), { timeline, seq }]));
  const held: (Place & { id: string })[] = await sql.unsafe(IDS, [JSON.stringify([...places.values()])]);
  const ids = new Map(held.map((row) => [placeOf(row), row.id]));
  return repeated.filter((entry) => ids.get(placeOf(entry)) !== entry.id).length;
}

/** A timeline with a hole before its newest entry: if the hole has been filled, what lies behind it counts from now on. */
async function skipToHole(sql: SQL, timeline: TimelineRow): Promise<void> {
  const [end] = await sql.unsafe(RUN_END, [timeline.number, timeline.lastSeq + 1]);
  if (end) timeline.lastSeq = end.seq;
}
