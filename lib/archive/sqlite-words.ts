/**
 * The words of the SQLite archive: which entries have them, and the search for them.
 *
 *   the words' entries, everybody's, are read ─► few of the searched timelines: these are the hits
 *                                             └► many, or too much to read: each timeline is asked for its newest hits
 *   timelines, the one with the latest entry first ─► its hits ─► until no other one can add to the page
 *
 * So a word that is said all the time fills its page from some timelines, 0.1 to 0.3 ms each, and of one that is common elsewhere
 * only the list is read, 0.1 µs an entry. What people say most, in one message of four, costs 20 to 40 ms in 500 timelines of a million
 * messages, whatever moment is asked for (`bun run bench archive`).
 */

import type { Database } from "bun:sqlite";
import { wordsOf } from "../words.ts";
import { type Found, SEARCHED_WORDS_MAX } from "./contract.ts";
import type { ArchiveSearch, NewEntry } from "./store.ts";

/** A row in timeline_parts that says as of which entry an edited entry's words are; no part of im's has such a name. */
const WORDS_PART = "#words";
/** Half a row id of timeline_words. Entries beyond, of a timeline of four thousand million, are not found. */
const INDEXED_SEQ_MAX = 2 ** 32 - 1;

/** Of the searched timelines, in one reading: 12 ms. Where they have more, a page is filled by fifty visits or a hundred. */
const HITS_MAX = 40_000;
/** Of everybody's in one reading, for each timeline searched: 40 µs, less than a visit. Few words are in so many messages for 500. */
const READ_PER_TIMELINE = 400;

/** Written in one step of a merge, of 512 bytes: some 10 ms, 30 at most. */
const MERGE_PAGES = 512;

/**
 * By timeline and seq, so that a search reads of each word's list only the stretch of a timeline. A list by time of all
 * timelines would be read past everybody's hits to find one user's. By seq downwards, newest first: FTS5 seeks forwards only, and
 * backwards reads the list from its end (2.2 ms instead of 0.06 for one timeline, of a word in 15 000 texts). Words come from
 * lib/words.ts: the tokenizer only splits.
 */
export const WORDS_SCHEMA = `
CREATE VIRTUAL TABLE timeline_words USING fts5(words, content='', contentless_delete=1, detail=none, tokenize='ascii');`;

/**
 * FTS5 seeks in a list by pages, of 4 KB unless told: then a visit reads past thousands of entries, 220 to 530 µs for common words.
 * Pages of 512 bytes make it 80 and cost 3 bytes an entry. The index by time finds the newest entry up to a moment, where a page
 * after another one begins, in 10 µs and costs 20 bytes an entry; entries of a timeline are far apart in the file, and to look for
 * it among them took 50. An archive of before is rewritten at once: 7 s a million entries.
 */
export const SEARCH_SCHEMA = `
CREATE INDEX timeline_entries_timed ON timeline_entries (timeline, committed_at, seq);
INSERT INTO timeline_words (timeline_words, rank) VALUES ('pgsz', 512);
INSERT INTO timeline_words (timeline_words) VALUES ('optimize');`;

interface SearchedTimeline {
  readonly conversation: string;
  readonly number: number;
  readonly lastAt: number;
}

/** What a page may show of a timeline: entries before `below`, committed up to `latest`, the newest of them at `lastAt`. */
interface Stretch extends SearchedTimeline {
  readonly below: number;
  readonly latest: number;
}

type Place = Pick<Found, "seq" | "at">;

const FIND_TIMELINE =
  "SELECT conversation, number, last_at AS lastAt FROM timelines WHERE conversation = ? AND epoch = ?";

/** The last row is null when the list was not read to its end. */
const EVERYWHERE = `SELECT hit >> 32 AS timeline, ${INDEXED_SEQ_MAX} - (hit & ${INDEXED_SEQ_MAX}) AS seq
  FROM (SELECT rowid AS hit FROM timeline_words WHERE timeline_words MATCH ?1 LIMIT ?3)
  WHERE hit >> 32 IN (SELECT value FROM json_each(?2))
  UNION ALL SELECT NULL, NULL
  WHERE EXISTS (SELECT 1 FROM timeline_words WHERE timeline_words MATCH ?1 LIMIT 1 OFFSET ?3)
  LIMIT ${HITS_MAX + 1}`;

const IN_TIMELINE = `SELECT entry.seq, entry.committed_at AS at
  FROM timeline_words CROSS JOIN timeline_entries AS entry
  WHERE timeline_words MATCH ?1
    AND timeline_words.rowid > (?2 << 32) + (${INDEXED_SEQ_MAX} - ?3) AND timeline_words.rowid < (?2 + 1) << 32
    AND entry.timeline = ?2 AND entry.seq = ${INDEXED_SEQ_MAX} - (timeline_words.rowid & ${INDEXED_SEQ_MAX}) AND entry.committed_at <= ?4
  ORDER BY timeline_words.rowid LIMIT ?5`;

const TIME_OF = "SELECT committed_at AS at FROM timeline_entries WHERE timeline = ? AND seq = ?";

/** The last entry up to a moment. */
const AS_OF = `SELECT seq, committed_at AS at FROM timeline_entries
  WHERE timeline = ? AND committed_at <= ? ORDER BY committed_at DESC, seq DESC LIMIT 1`;

export function createSearch(database: Database) {
  const find = database.prepare<SearchedTimeline, [string, string]>(FIND_TIMELINE);
  const everywhere = database.prepare<unknown, [string, string, number]>(EVERYWHERE);
  const inTimeline = database.prepare<Place, [string, number, number, number, number]>(IN_TIMELINE);
  const timeOf = database.prepare<{ at: number }, [number, number]>(TIME_OF);
  const asOf = database.prepare<Place, [number, number]>(AS_OF);

  /** The seqs of all hits by timeline, newest first, of those that have any; undefined when they are too many to be read. */
  function readAll(words: string, timelines: readonly SearchedTimeline[]): Map<number, number[]> | undefined {
    const numbers = JSON.stringify(timelines.map(({ number }) => number));
    const rows = everywhere.values(words, numbers, READ_PER_TIMELINE * timelines.length);
    if (rows.length > HITS_MAX || rows.at(-1)?.[0] === null) return undefined;
    const hits = new Map<number, number[]>();
    for (const [timeline, seq] of rows as [number, number][]) {
      const seqs = hits.get(timeline);
      if (seqs) seqs.push(seq);
      else hits.set(timeline, [seq]);
    }
    return hits;
  }

  function stretchOf(timeline: SearchedTimeline, before: Found | undefined): Stretch {
    const [latest, below] = boundsIn(timeline.conversation, before);
    if (timeline.lastAt <= latest) return { ...timeline, latest, below };
    const newest = asOf.get(timeline.number, latest) ?? { seq: 0, at: 0 };
    return { ...timeline, latest, below: Math.min(below, newest.seq + 1), lastAt: newest.at };
  }

  function* placesOf({ number, below, latest }: Stretch, seqs: readonly number[]): Generator<Place> {
    for (const seq of seqs) {
      if (seq >= below) continue;
      // The words of an edit may come before its message.
      const at = timeOf.get(number, seq)?.at;
      if (at !== undefined && at <= latest) yield { seq, at };
    }
  }

  return ({ timelines: searched, text, before, limit }: ArchiveSearch): Found[] => {
    const words = quotedWords(text);
    const timelines = searched.flatMap(({ conversation, epoch }) => find.get(conversation, epoch) ?? []);
    if (words === "" || timelines.length === 0) return [];
    const hits = readAll(words, timelines);
    const hitTimelines = hits ? timelines.filter(({ number }) => hits.has(number)) : timelines;
    const stretches = hitTimelines.map((timeline) => stretchOf(timeline, before));
    const found: Found[] = [];
    for (const stretch of stretches.sort((a, b) => b.lastAt - a.lastAt)) {
      const { conversation, number, below, latest, lastAt } = stretch;
      const oldest = found.length === limit ? found.at(-1)!.at : 0;
      if (oldest > lastAt) break;
      const places = hits
        ? placesOf(stretch, hits.get(number)!)
        : inTimeline.iterate(words, number, below, latest, limit);
      let taken = 0;
      for (const { seq, at } of places) {
        if (taken === limit || at < oldest) break;
        found.push({ conversation, seq, at });
        taken += 1;
      }
      found.sort(newestFirst).splice(limit);
    }
    return found;
  };
}

/** An FTS5 query for all words; each a quoted string, so it is never syntax. */
function quotedWords(text: string): string {
  const words = wordsOf(text).slice(0, SEARCHED_WORDS_MAX);
  return words.map((word) => `"${word}"`).join(" ");
}

/** The latest time and the first seq too high of what a conversation may add to a page after `before`. */
function boundsIn(conversation: string, before: Found | undefined): [latest: number, below: number] {
  if (!before) return [Number.MAX_SAFE_INTEGER, INDEXED_SEQ_MAX];
  if (conversation === before.conversation) return [before.at, Math.min(before.seq, INDEXED_SEQ_MAX)];
  return [conversation < before.conversation ? before.at : before.at - 1, INDEXED_SEQ_MAX];
}

function newestFirst(a: Found, b: Found): number {
  if (a.at !== b.at) return b.at - a.at;
  if (a.conversation !== b.conversation) return a.conversation < b.conversation ? 1 : -1;
  return b.seq - a.seq;
}

/** Sets by what words an entry is found, unless a later one has said so already. */
export function createWordsWriter(database: Database) {
  const noteEdit = database.prepare(
    `INSERT INTO timeline_parts VALUES (?, ?, '${WORDS_PART}', ?, NULL) ON CONFLICT (timeline, seq, part)
      DO UPDATE SET as_of = excluded.as_of WHERE excluded.as_of > as_of`,
  );
  const isEdited = database.prepare(
    `SELECT 1 FROM timeline_parts WHERE timeline = ? AND seq = ? AND part = '${WORDS_PART}'`,
  );
  const insert = database.prepare(
    `INSERT OR REPLACE INTO timeline_words (rowid, words) VALUES ((? << 32) + (${INDEXED_SEQ_MAX} - ?), ?)`,
  );
  const remove = createWordsRemover(database);

  return (timeline: number, { seq, fold, text }: NewEntry): void => {
    const target = fold?.target ?? seq;
    if (text === undefined || target >= INDEXED_SEQ_MAX) return;
    const counts = fold ? noteEdit.run(timeline, target, seq).changes > 0 : !isEdited.get(timeline, target);
    if (!counts) return;
    const words = wordsOf(text).join(" ");
    if (words !== "") insert.run(timeline, target, words);
    else if (fold) remove(timeline, target);
  };
}

export function createWordsRemover(database: Database): (timeline: number, seq: number) => void {
  const remove = database.prepare(`DELETE FROM timeline_words WHERE rowid = (? << 32) + (${INDEXED_SEQ_MAX} - ?)`);
  return (timeline, seq) => {
    if (seq < INDEXED_SEQ_MAX) remove.run(timeline, seq);
  };
}

/**
 * One step of merging all that the index consists of into one: only then are removed words out of it. True when there is more to do.
 * Of a million entries 77 steps, one second.
 */
export function mergeWords(database: Database): boolean {
  const changes = database.query<{ count: number }, []>("SELECT total_changes() AS count");
  const before = changes.get()!.count;
  database.run(`INSERT INTO timeline_words (timeline_words, rank) VALUES ('merge', -${MERGE_PAGES})`);
  // As SQLite's manual has it: less than two changes are none.
  return changes.get()!.count - before >= 2;
}
