/**
 * The words of the SQLite archive: which entries have them, and the search for them.
 *
 * A search is one of two. A word that few entries have is looked up once, for everybody's timelines, and the others' hits are put
 * aside. Of words that many have, the searched timelines are read one after the other, the most recently active first, until no
 * older one can add to the page.
 */

import type { Database } from "bun:sqlite";
import { wordsOf } from "../words.ts";
import { type Found, SEARCHED_WORDS_MAX } from "./contract.ts";
import type { ArchiveSearch, NewEntry } from "./store.ts";

/** A row in timeline_parts that says as of which entry an edited entry's words are; no part of im's has such a name. */
const WORDS_PART = "#words";
/** Half a row id of timeline_words. Entries beyond, of a timeline of four thousand million, are not found. */
const INDEXED_SEQ_MAX = 2 ** 32 - 1;

/** Hits that are few: 1 ms to read and put aside. */
const FEW_HITS_MAX = 1_000;

/** Written in one step of a merge: some 30 ms. */
const MERGE_PAGES = 64;

/**
 * By timeline and seq, so that a search reads of each word's list only the stretch of a timeline. A list by time of all
 * timelines would be read past everybody's hits to find one user's. By seq downwards, newest first: FTS5 seeks forwards only, and
 * backwards reads the list from its end (2.2 ms instead of 0.06 for one timeline, of a word in 15 000 texts). Words come from lib/words.ts: the tokenizer only splits.
 */
export const WORDS_SCHEMA = `
CREATE VIRTUAL TABLE timeline_words USING fts5(words, content='', contentless_delete=1, detail=none, tokenize='ascii');`;

interface SearchedTimeline {
  readonly conversation: string;
  readonly number: number;
  readonly lastAt: number;
}

const FIND_TIMELINE =
  "SELECT conversation, number, last_at AS lastAt FROM timelines WHERE conversation = ? AND epoch = ?";

const EVERYWHERE = `SELECT rowid >> 32 AS timeline, ${INDEXED_SEQ_MAX} - (rowid & ${INDEXED_SEQ_MAX}) AS seq
  FROM timeline_words WHERE timeline_words MATCH ? LIMIT ?`;

const IN_TIMELINE = `SELECT entry.seq, entry.committed_at AS at
  FROM timeline_words CROSS JOIN timeline_entries AS entry
  WHERE timeline_words MATCH ?1
    AND timeline_words.rowid > (?2 << 32) + (${INDEXED_SEQ_MAX} - ?3) AND timeline_words.rowid < (?2 + 1) << 32
    AND entry.timeline = ?2 AND entry.seq = ${INDEXED_SEQ_MAX} - (timeline_words.rowid & ${INDEXED_SEQ_MAX}) AND entry.committed_at <= ?4
  ORDER BY timeline_words.rowid LIMIT ?5`;

export function createSearch(database: Database) {
  const find = database.prepare<SearchedTimeline, [string, string]>(FIND_TIMELINE);
  const everywhere = database.prepare<{ timeline: number; seq: number }, [string, number]>(EVERYWHERE);
  const inTimeline = database.prepare<{ seq: number; at: number }, [string, number, number, number, number]>(
    IN_TIMELINE,
  );
  const timeOf = database.prepare<{ at: number }, [number, number]>(
    "SELECT committed_at AS at FROM timeline_entries WHERE timeline = ? AND seq = ?",
  );

  return ({ timelines: searched, text, before, limit }: ArchiveSearch): Found[] => {
    const words = quotedWords(text);
    const timelines = searched.flatMap(({ conversation, epoch }) => find.get(conversation, epoch) ?? []);
    if (words === "" || timelines.length === 0) return [];
    const hits = everywhere.all(words, FEW_HITS_MAX + 1);
    const found: Found[] = [];
    if (hits.length <= FEW_HITS_MAX) {
      const conversations = new Map(timelines.map(({ number, conversation }) => [number, conversation]));
      for (const { timeline, seq } of hits) {
        const conversation = conversations.get(timeline);
        if (conversation === undefined) continue;
        const hit = { conversation, seq, at: timeOf.get(timeline, seq)!.at };
        if (!before || newestFirst(before, hit) < 0) found.push(hit);
      }
      return found.sort(newestFirst).slice(0, limit);
    }
    timelines.sort((a, b) => b.lastAt - a.lastAt);
    for (const { conversation, number, lastAt } of timelines) {
      if (found.length === limit && found.at(-1)!.at > lastAt) break;
      const [latest, below] = boundsIn(conversation, before);
      for (const row of inTimeline.all(words, number, below, latest, limit)) found.push({ conversation, ...row });
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
  if (conversation === before.conversation) return [Number.MAX_SAFE_INTEGER, Math.min(before.seq, INDEXED_SEQ_MAX)];
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
 * Of 150 000 entries 15 steps, half a second.
 */
export function mergeWords(database: Database): boolean {
  const changes = database.query<{ count: number }, []>("SELECT total_changes() AS count");
  const before = changes.get()!.count;
  database.run(`INSERT INTO timeline_words (timeline_words, rank) VALUES ('merge', -${MERGE_PAGES})`);
  // As SQLite's manual has it: less than two changes are none.
  return changes.get()!.count - before >= 2;
}
