/**
 * The archive: every entry of every timeline, in SQL, for as long as nobody deletes it. It is the truth of what has left the
 * hot window in Redis, so a write is on disk when it resolves.
 *
 *   const store = await openArchive(config.archiveUrl);
 *   const { timelines } = await store.write(entries);             // once each, however often they come
 *   const page = await store.history({ conversation, epoch, limit: 50, newest: true, messagesOnly: true });
 *
 *   contract.ts   what archive answers by RPC        store.ts   what a store promises
 *   sqlite.ts     the embedded store                 postgres.ts  a server's     connections.ts  the way to it
 *   rows.ts       what both stores do alike          sqlite-words.ts  the embedded store's search
 *   sqlite-expiry.ts, postgres-expiry.ts             entries that are kept no longer
 *   sqlite-rewrite.ts, postgres-rewrite.ts           what erasure changes
 */

export {
  type ArchiveContract,
  type ArchivedEntry,
  archiveContract,
  type FindPage,
  type Found,
  LOOKED_AT_MAX,
  REWRITTEN_MAX,
  type Rewrite,
} from "./contract.ts";
export {
  type ArchiveFind,
  type ArchiveRange,
  type ArchiveSearch,
  type ArchiveStore,
  type ExpiredTimeline,
  type NewEntry,
  openArchive,
  type TimelineState,
  type WriteResult,
} from "./store.ts";
