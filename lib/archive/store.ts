/**
 * What an archive promises, whichever database keeps it. A *timeline* is a conversation in one epoch; its entries are numbered
 * 1..n and come in that order, some of them twice.
 */

import type * as v from "valibot";
import { AppError } from "../errors.ts";
import type { ArchivedEntry, archiveContract, FindPage, Found, Rewrite } from "./contract.ts";

/** What an entry makes of an earlier one (an edit of its message): named parts, opaque to the archive; null removes one. */
export interface Fold {
  readonly target: number;
  readonly parts: Readonly<Record<string, string | null>>;
}

/** An entry on its way in. */
export interface NewEntry extends Omit<ArchivedEntry, "parts"> {
  readonly fold?: Fold | undefined;
  /** By what search finds this entry, or from now on the fold's target; "": it does not. Left out: as before. */
  readonly text?: string | undefined;
  readonly conversation: string;
  readonly epoch: string;
  /** When logic committed it, ms. */
  readonly committedAt: number;
}

/** How far the archive holds a timeline. */
export interface TimelineState {
  readonly conversation: string;
  readonly epoch: string;
  /** The archive holds every entry from 1 up to here. */
  readonly lastSeq: number;
  /** Its newest entry. Above lastSeq only when entries before it are missing. */
  readonly newestSeq: number;
  /** Logic was told that the archive holds everything up to here. */
  readonly announcedSeq: number;
}

/** The entries of a timeline up to `through` are older than they are to be kept. */
export interface ExpiredTimeline {
  readonly conversation: string;
  readonly epoch: string;
  readonly through: number;
}

export interface WriteResult {
  /** Entries that the archive did not have. */
  readonly added: number;
  /** Entries whose place holds another entry already: a timeline that went back. They are not written. */
  readonly clashes: number;
  /** The state of each timeline that was written to. */
  readonly timelines: readonly TimelineState[];
}

export type ArchiveRange = v.InferInput<typeof archiveContract.methods.history.input>;

export type ArchiveSearch = v.InferInput<typeof archiveContract.methods.search.input>;

export type ArchiveFind = v.InferInput<typeof archiveContract.methods.find.input>;

export interface ArchiveStore {
  /**
   * All or nothing, on disk when it resolves. Entries that are there already are left as they are. A part is what the entry with
   * the highest seq made of it, in whatever order they come; so is the text by which an entry is found.
   */
  write(entries: readonly NewEntry[]): Promise<WriteResult>;
  /** Entries of the range, ascending, at most `limit`: its first ones, or its last ones when `newest`. Cost: those it passes. */
  history(range: ArchiveRange): Promise<ArchivedEntry[]>;
  /** As the contract has it; more than SEARCHED_WORDS_MAX words are cut off. Entries of before the index was kept are not found. */
  search(search: ArchiveSearch): Promise<Found[]>;
  /** As the contract has it. Cost: every row up to the page's end. */
  find(find: ArchiveFind): Promise<FindPage>;
  /** All or nothing, on disk when it resolves. */
  rewrite(entries: readonly Rewrite[]): Promise<void>;
  /** As the contract has it, in steps of at most some 100 ms. */
  scrub(): Promise<{ readonly more: boolean }>;
  /**
   * Timelines that hold more than was announced and have been idle since `idleSinceMs`. Looks at `count` timelines from `from`
   * on; `next` is where to go on, 0 after the last.
   */
  unannounced(page: { idleSinceMs: number; from: number; count: number }): Promise<{
    readonly timelines: readonly TimelineState[];
    readonly next: number;
  }>;
  /** Notes that logic was told of each timeline's lastSeq. Never moves back. */
  noteAnnounced(timelines: readonly TimelineState[]): Promise<void>;
  /**
   * Timelines that begin with entries committed before `beforeMs`, and up to where they are such. Pages as `unannounced` does. Cost:
   * what is expired.
   */
  expired(page: { beforeMs: number; from: number; count: number }): Promise<{
    readonly timelines: readonly ExpiredTimeline[];
    readonly next: number;
  }>;
  /** Removes their entries up to there, with parts and words. Idempotent; in steps between which others are served. */
  remove(timelines: readonly ExpiredTimeline[]): Promise<void>;
  close(): Promise<void>;
}

const SQLITE = "sqlite://";
const POSTGRES = /^postgres(ql)?:\/\//;

/**
 * Opens the archive, creating it when it is not there (of PostgreSQL its tables: the database must be there). Throws AppError
 * INVALID for what it cannot use, OVERLOADED when the server cannot be reached.
 */
export async function openArchive(url: string): Promise<ArchiveStore> {
  // Loaded when used: whoever only needs the contract runs where there is no SQL.
  if (url.startsWith(SQLITE)) {
    const { openSqliteArchive } = await import("./sqlite.ts");
    return openSqliteArchive(url.slice(SQLITE.length));
  }
  if (POSTGRES.test(url)) {
    const { openPostgresArchive } = await import("./postgres.ts");
    return openPostgresArchive(url);
  }
  throw new AppError("INVALID", "SKEIN_ARCHIVE_URL: must be sqlite://<path> or postgres://<user>@<host>/<database>");
}
