/**
 * Reading a conversation's timeline, wherever it lies: the hot window in Redis, and the archive behind it. The reader does not
 * notice the seam: trimming happens only behind the archive, so what is no longer hot is archived.
 *
 *   seq   1 ············ archived ············ firstHot ····· hot ····· head
 */

import type { ArchivedEntry } from "../archive/contract.ts";
import type { Keys, RedisClient } from "../redis/index.ts";
import type { Entry } from "./protocol.ts";

/** One entry as it is stored. `record` is JSON: the whole message, or the whole entry. */
export type StoredEntry = Pick<ArchivedEntry, "seq" | "kind" | "ordinal" | "record">;

export interface Range {
  readonly conversation: string;
  readonly epoch: string;
  /** Exclusive bounds. */
  readonly after: number;
  readonly before: number;
  readonly limit: number;
  /** The last `limit` of the range instead of the first. Ascending all the same. */
  readonly newest: boolean;
  readonly messagesOnly: boolean;
}

/** Reads archived entries; in a worker it is the archive's RPC. */
export type ReadArchive = (range: Range) => Promise<readonly StoredEntry[]>;

/** Entries per read from Redis. Runs of non-messages longer than this cost another round trip. */
const PAGE_COUNT = 256;
/** Round trips of one call: 256 x 64 entries that are no messages would be a conversation of 16 384 joins in a row. */
const PAGES_MAX = 64;

export interface Timeline {
  /** Entries of the range, ascending, at most `limit`. */
  read(range: Range): Promise<StoredEntry[]>;
  /** The entry at `seq`, or undefined when there is none. */
  at(conversation: string, epoch: string, seq: number): Promise<StoredEntry | undefined>;
}

export function createTimeline(redis: RedisClient, keys: Keys, readArchive: ReadArchive): Timeline {
  async function hot(range: Range): Promise<StoredEntry[]> {
    const found: StoredEntry[] = [];
    const log = keys.log(range.conversation);
    let { after, before } = range;
    for (let page = 0; page < PAGES_MAX && found.length < range.limit && after + 1 < before; page++) {
      const count = range.messagesOnly ? PAGE_COUNT : Math.min(PAGE_COUNT, range.limit - found.length);
      const [low, high] = [`${after + 1}`, before > Number.MAX_SAFE_INTEGER - 1 ? "+" : `${before - 1}`];
      const rows = range.newest
        ? await redis.xrevrange(log, high, low, "COUNT", count)
        : await redis.xrange(log, low, high, "COUNT", count);
      for (const row of rows) {
        const entry = toStored(row);
        if (range.newest) before = entry.seq;
        else after = entry.seq;
        if (range.messagesOnly && entry.kind !== "message") continue;
        found.push(entry);
        if (found.length === range.limit) break;
      }
      if (rows.length < count) break;
    }
    return range.newest ? found.reverse() : found;
  }

  async function firstHot(conversation: string): Promise<number> {
    const [row] = await redis.xrange(keys.log(conversation), "-", "+", "COUNT", 1);
    return row ? toStored(row).seq : Number.MAX_SAFE_INTEGER;
  }

  async function read(range: Range): Promise<StoredEntry[]> {
    if (range.newest) {
      const recent = await hot(range);
      const missing = range.limit - recent.length;
      if (missing === 0) return recent;
      const before = Math.min(range.before, await firstHot(range.conversation));
      if (before <= range.after + 1) return recent;
      const older = await readArchive({ ...range, before, limit: missing });
      return [...older, ...recent];
    }
    // The window's start is read first: entries that leave it meanwhile are in the archive already.
    const first = await firstHot(range.conversation);
    if (range.after + 1 >= first || range.before <= range.after + 1) return hot(range);
    const older = await readArchive({ ...range, before: Math.min(range.before, first) });
    if (older.length === range.limit) return [...older];
    const rest = await hot({ ...range, after: Math.max(range.after, first - 1), limit: range.limit - older.length });
    return [...older, ...rest];
  }

  return {
    read,
    async at(conversation, epoch, seq) {
      const range = {
        conversation,
        epoch,
        after: seq - 1,
        before: seq + 1,
        limit: 1,
        newest: false,
        messagesOnly: false,
      };
      const [entry] = await read(range);
      return entry;
    },
  };
}

type Row = [id: string, fields: string[]];

/** The id carries seq and ordinal, the only field's name the kind. */
function toStored([id, [kind, record]]: Row): StoredEntry {
  const dash = id.indexOf("-");
  return {
    seq: Number(id.slice(0, dash)),
    kind: kind === "m" ? "message" : (kind as "member" | "settings"),
    ordinal: Number(id.slice(dash + 1)),
    record: record!,
  };
}

/** The wire form of a stored entry. */
export function toEntry(stored: StoredEntry): Entry {
  const record = JSON.parse(stored.record);
  if (stored.kind !== "message") return record as Entry;
  return { kind: "message", seq: stored.seq, id: record.id, message: record };
}
