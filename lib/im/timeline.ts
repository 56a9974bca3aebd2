/**
 * Reading a conversation's timeline, wherever it lies: the hot window in Redis, and the archive behind it. The reader does not
 * notice the seam: trimming happens only behind the archive, so what is no longer hot is archived.
 *
 *   seq   1 ············ archived ············ firstHot ····· hot ····· head
 *
 * The same holds for what is folded about a message: it leaves Redis behind the archive. What Redis still has is newer than
 * the archive's; and trims that take folded state away are counted, so that who reads the archive first and Redis then can tell
 * that something moved from the one to the other in between.
 */

import type { ArchivedEntry } from "../archive/contract.ts";
import { AppError } from "../errors.ts";
import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import pageLua from "../redis/lua/im-page.lua" with { type: "text" };
import type { Parts } from "./fold.ts";
import type { Entry } from "./protocol.ts";

/** One entry as it is stored. `record` is JSON: the whole message, or the whole entry. */
export type StoredEntry = Pick<ArchivedEntry, "seq" | "kind" | "ordinal" | "record"> & {
  readonly parts?: Parts | undefined;
};

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
  /** What is wanted of the messages' folded state; nothing costs nothing. */
  readonly parts?: readonly string[];
}

/** Reads archived entries; in a worker it is the archive's RPC. */
export type ReadArchive = (range: Range & { readonly parts: string[] }) => Promise<readonly StoredEntry[]>;

/** Entries per read from Redis. Runs of non-messages longer than this cost another round trip. */
const PAGE_COUNT = 256;
/** Round trips of one call: 256 x 64 entries that are no messages would be a conversation of 16 384 joins in a row. */
const PAGES_MAX = 64;
/** Reads of the archive that a trim may spoil, one after another: trims of a conversation are seconds apart. */
const TRIMMED_READS_MAX = 5;

const readPage = defineScript({
  name: "imPage",
  lua: pageLua,
  keys: ["log", "folds"],
  args: ["low", "high", "count", "newest"],
  decode: (reply) => toPage(reply as string[]),
});

export interface Timeline {
  /** Entries of the range, ascending, at most `limit`. */
  read(range: Range): Promise<StoredEntry[]>;
  /** The entry at `seq`, or undefined when there is none. */
  at(conversation: string, epoch: string, seq: number): Promise<StoredEntry | undefined>;
  /** The first entry that there is: those before it, if any, were too old to be kept. */
  first(conversation: string, epoch: string): Promise<StoredEntry | undefined>;
  /** The archive's entry at `seq` with these parts, and the trims of folded state counted before it was read. */
  archivedAt(place: ArchivedPlace): Promise<{ entry: StoredEntry | undefined; asOf: string }>;
}

export interface ArchivedPlace {
  readonly conversation: string;
  readonly epoch: string;
  readonly seq: number;
  readonly parts: readonly string[];
}

export function createTimeline(redis: RedisClient, keys: Keys, readArchive: ReadArchive): Timeline {
  async function hot(range: Range): Promise<StoredEntry[]> {
    const found: StoredEntry[] = [];
    let { after, before } = range;
    for (let page = 0; page < PAGES_MAX && found.length < range.limit && after + 1 < before; page++) {
      const count = range.messagesOnly ? PAGE_COUNT : Math.min(PAGE_COUNT, range.limit - found.length);
      const [low, high] = [`${after + 1}`, before > Number.MAX_SAFE_INTEGER - 1 ? "+" : `${before - 1}`];
      const rows = await hotPage(range, low, high, count);
      for (const entry of rows) {
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

  async function hotPage(
    { conversation, newest, parts }: Range,
    low: string,
    high: string,
    count: number,
  ): Promise<StoredEntry[]> {
    const log = keys.log(conversation);
    if (parts?.length) {
      return readPage(redis, { log, folds: keys.folds(conversation), low, high, count, newest: newest ? 1 : 0 });
    }
    const rows = newest
      ? await redis.xrevrange(log, high, low, "COUNT", count)
      : await redis.xrange(log, low, high, "COUNT", count);
    return rows.map(([id, [kind, record]]) => toStored(id, kind!, record!));
  }

  async function firstHot(conversation: string): Promise<number> {
    const [row] = await redis.xrange(keys.log(conversation), "-", "+", "COUNT", 1);
    return row ? seqOf(row[0]) : Number.MAX_SAFE_INTEGER;
  }

  const trims = async (conversation: string) => (await redis.hget(keys.folds(conversation), "#")) ?? "0";

  /** Of the archive, with the parts that Redis has newer. Throws OVERLOADED when trims spoil every read. */
  async function archived(range: Range): Promise<readonly StoredEntry[]> {
    const { conversation, parts = [] } = range;
    if (parts.length === 0) return readArchive({ ...range, parts: [] });
    for (let tries = 0; tries < TRIMMED_READS_MAX; tries++) {
      const asOf = await trims(conversation);
      const entries = await readArchive({ ...range, parts: [...parts] });
      const messages = entries.filter(({ kind }) => kind === "message");
      if (messages.length === 0) return entries;
      const fields = messages.flatMap(({ seq }) => [`${seq}c`, `${seq}r`]);
      const [now, ...newer] = await redis.hmget(keys.folds(conversation), "#", ...fields);
      if ((now ?? "0") !== asOf) continue;
      const bySeq = new Map(messages.map(({ seq }, i) => [seq, newer.slice(2 * i, 2 * i + 2)]));
      return entries.map((entry) => withNewer(entry, bySeq.get(entry.seq)));
    }
    throw new AppError("OVERLOADED", "The conversation is being trimmed", { retryAfterMs: 200 });
  }

  async function read(range: Range): Promise<StoredEntry[]> {
    if (range.newest) {
      const recent = await hot(range);
      const missing = range.limit - recent.length;
      if (missing === 0) return recent;
      // Behind what was read, wherever the window begins by now: a trim in between must not make the archive repeat it.
      const before = recent[0]?.seq ?? Math.min(range.before, await firstHot(range.conversation));
      if (before <= range.after + 1) return recent;
      const older = await archived({ ...range, before, limit: missing });
      return [...older, ...recent];
    }
    for (let tries = 0; tries < TRIMMED_READS_MAX; tries++) {
      const first = await firstHot(range.conversation);
      if (range.before <= range.after + 1) return [];
      const older = range.after + 1 < first ? await archived({ ...range, before: Math.min(range.before, first) }) : [];
      if (older.length === range.limit) return [...older];
      const rest = await hot({ ...range, after: Math.max(range.after, first - 1), limit: range.limit - older.length });
      // What left the window between the two reads was in neither.
      if ((await firstHot(range.conversation)) <= Math.max(first, range.after + 1)) return [...older, ...rest];
    }
    throw new AppError("OVERLOADED", "The conversation is being trimmed", { retryAfterMs: 200 });
  }

  const one = (conversation: string, epoch: string, seq: number): Range => ({
    conversation,
    epoch,
    after: seq - 1,
    before: seq + 1,
    limit: 1,
    newest: false,
    messagesOnly: false,
  });

  return {
    read,
    async at(conversation, epoch, seq) {
      const [entry] = await read(one(conversation, epoch, seq));
      return entry;
    },
    async first(conversation, epoch) {
      const [entry] = await read({ ...one(conversation, epoch, 1), before: Number.MAX_SAFE_INTEGER });
      return entry;
    },
    async archivedAt({ conversation, epoch, seq, parts }) {
      const asOf = await trims(conversation);
      const [entry] = await readArchive({ ...one(conversation, epoch, seq), parts: [...parts] });
      return { entry, asOf };
    },
  };
}

/** The id carries seq and ordinal, the only field's name the kind. */
function toStored(id: string, kind: string, record: string): StoredEntry {
  return {
    seq: seqOf(id),
    kind: kind === "m" ? "message" : (kind as StoredEntry["kind"]),
    ordinal: Number(id.slice(id.indexOf("-") + 1)),
    record,
  };
}

const seqOf = (id: string) => Number(id.slice(0, id.indexOf("-")));

function toPage(reply: readonly string[]): StoredEntry[] {
  const entries: StoredEntry[] = [];
  for (let i = 0; i < reply.length; i += 5) {
    const [id, kind, record, content, reactions] = reply.slice(i, i + 5) as [string, string, string, string, string];
    const entry = toStored(id, kind, record);
    entries.push(content === "" && reactions === "" ? entry : { ...entry, parts: { content, reactions } });
  }
  return entries;
}

function withNewer(entry: StoredEntry, newer: readonly (string | null)[] | undefined): StoredEntry {
  const [content, reactions] = newer ?? [];
  if (!content && !reactions) return entry;
  return { ...entry, parts: { ...entry.parts, ...(content ? { content } : {}), ...(reactions ? { reactions } : {}) } };
}

/** The wire form of a stored entry. */
export function toEntry(stored: StoredEntry): Entry {
  const record = JSON.parse(stored.record);
  if (stored.kind !== "message") return record as Entry;
  return { kind: "message", seq: stored.seq, id: record.id, message: record };
}
