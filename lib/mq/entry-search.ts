/**
 * The search for a message's entries by its id. Streams know no ids, so entries are looked through, but few of them: an id carries
 * the time when it was made, and a placed id its partition.
 *
 *   1  around the id's time, in every partition that it can lie in      most messages are appended at once
 *   2  from its time to the end, when the id names the partition        delayed and half messages come later
 *   3  from the newest entry back to the id's time, all partitions in turn
 *   4  behind what was found, up to the partition's last redrive        a redriven message comes again under its id
 *
 * Bounded: 200 000 entries in all, 2.3 µs of Redis each, in script calls of about 1 ms. Where the bound ended a search it says so.
 */

import { partitionOfPlacedId, timeOfId } from "../id.ts";
import { defineScript } from "../redis/index.ts";
import findLua from "../redis/lua/mq-find.lua" with { type: "text" };
import type { QueueContext } from "./consumer.ts";
import { timeOfEntry } from "./message.ts";
import { groupsOf } from "./retention.ts";
import { compareEntries } from "./stream.ts";

/** Redis' clock may be behind the maker's: at 1 s of difference Skein warns. */
const EARLY_MS = 2_000;
/** A publication that is repeated under its id comes a little later. */
const LATE_MS = 10_000;
const SCAN_MAX = 500;
const SCAN_BYTES_MAX = 2 * 1024 * 1024;
/** Half a second of Redis in all, in slices between which others are served. */
const ENTRIES_MAX = 200_000;
const TIMED_ID = /^[0-9A-HJKMNP-TV-Z]{20}(-\d{1,4})?$/;
/** Ids of another making may look like ours by chance, but hardly tell a time in these years. */
const TIME_MIN_MS = Date.UTC(2020);
const AHEAD_MS = 24 * 3_600_000;

/** An entry with the id; its data stays where it is. */
export interface FoundEntry {
  readonly topic: string;
  readonly partition: number;
  readonly entry: string;
  readonly header: string;
  /** Of its data. */
  readonly bytes: number;
}

export interface SearchResult {
  /** Oldest first. */
  readonly found: readonly FoundEntry[];
  readonly entriesLookedAt: number;
  /** false: the bound ended the search; there may be entries where it did not look. */
  readonly isComplete: boolean;
}

type FindReply = [
  matches: [entry: string, header: string, bytes: number][],
  last: string,
  scanned: number,
  isEnd: 0 | 1,
];

const findScript = defineScript({
  name: "mqFind",
  lua: findLua,
  keys: ["stream"],
  args: ["from", "to", "isReverse", "id", "scanMax", "bytesMax"],
  decode: (reply) => reply as FindReply,
});

/** An entry in the partition that a placed id names, known from the record under that id. */
export interface KnownEntry {
  readonly topic: string;
  readonly entry: string;
}

/** `known`: where to look first; what is found there need not be searched for. Throws Redis errors. */
export function searchEntries(
  context: QueueContext,
  id: string,
  topics: readonly string[],
  known: readonly KnownEntry[] = [],
): Promise<SearchResult> {
  return new EntrySearch(context, id, topics).run(known);
}

/** The time in ms that an id tells, or undefined when it tells none. */
export function timeToldBy(id: string, nowMs: number): number | undefined {
  if (!TIMED_ID.test(id)) return undefined;
  const time = timeOfId(id);
  return time >= TIME_MIN_MS && time <= nowMs + AHEAD_MS ? time : undefined;
}

interface Place {
  readonly topic: string;
  readonly partition: number;
}

class EntrySearch {
  readonly #context: QueueContext;
  readonly #id: string;
  readonly #topics: readonly string[];
  readonly #partitions: readonly number[];
  /** Before it, no entry can have the id. */
  readonly #timeMs: number | undefined;
  readonly #isPlaced: boolean;
  readonly #found = new Map<string, FoundEntry>();
  #left = ENTRIES_MAX;

  constructor(context: QueueContext, id: string, topics: readonly string[]) {
    this.#context = context;
    this.#id = id;
    this.#topics = topics;
    this.#timeMs = timeToldBy(id, context.clock.now());
    const placed = partitionOfPlacedId(id, context.keys.partitions);
    this.#isPlaced = placed !== undefined;
    const all = Array.from({ length: context.keys.partitions }, (_, partition) => partition);
    this.#partitions = placed === undefined ? all : [placed];
  }

  async run(known: readonly KnownEntry[]): Promise<SearchResult> {
    for (const { topic, entry } of known) {
      await this.#step({ topic, partition: this.#partitions[0]! }, entry, entry, false);
    }
    const isSearched = this.#found.size > 0 || (await this.#search());
    const isBehindSearched = await this.#searchBehind();
    return {
      found: [...this.#found.values()].sort((a, b) => compareEntries(a.entry, b.entry)),
      entriesLookedAt: ENTRIES_MAX - this.#left,
      isComplete: isSearched && isBehindSearched,
    };
  }

  async #search(): Promise<boolean> {
    const isComplete = await this.#searchAroundTime();
    if (this.#found.size > 0) return isComplete;
    return this.#isPlaced ? this.#searchPlaced() : this.#searchBackwards();
  }

  /** The partitions of a topic at once, for most have nothing there. */
  async #searchAroundTime(): Promise<boolean> {
    const time = this.#timeMs;
    if (time === undefined) return true;
    let isComplete = true;
    for (const topic of this.#topics) {
      const scans = this.#partitions.map((partition) =>
        this.#scan({ topic, partition }, String(time - EARLY_MS), String(time + LATE_MS)),
      );
      if ((await Promise.all(scans)).includes(false)) isComplete = false;
    }
    return isComplete;
  }

  async #searchPlaced(): Promise<boolean> {
    let isComplete = true;
    for (const topic of this.#topics) {
      if (!(await this.#scan({ topic, partition: this.#partitions[0]! }, this.#from, "+"))) isComplete = false;
    }
    return isComplete;
  }

  /** A slice of each partition in turn, so that what is recent is found soon wherever it lies; ends when something is found. */
  async #searchBackwards(): Promise<boolean> {
    let open = this.#topics.flatMap((topic) =>
      this.#partitions.map((partition) => ({ place: { topic, partition }, from: "+" })),
    );
    while (open.length > 0 && this.#found.size === 0) {
      const still: typeof open = [];
      for (const { place, from } of open) {
        if (this.#left <= 0) return false;
        const { last, isEnd } = await this.#step(place, from, this.#from, true);
        if (!isEnd) still.push({ place, from: `(${last}` });
      }
      open = still;
    }
    return true;
  }

  async #searchBehind(): Promise<boolean> {
    const latest = new Map<string, FoundEntry>();
    for (const found of this.#found.values()) {
      const name = `${found.topic}/${found.partition}`;
      const other = latest.get(name);
      if (!other || compareEntries(other.entry, found.entry) < 0) latest.set(name, found);
    }
    let isComplete = true;
    for (const { topic, partition, entry } of latest.values()) {
      const untilMs = await this.#redrivenUntil(topic, partition);
      if (untilMs < timeOfEntry(entry)) continue;
      if (!(await this.#scan({ topic, partition }, `(${entry}`, String(untilMs + 1)))) isComplete = false;
    }
    return isComplete;
  }

  /** When any group last redrove something there, ms; 0 for never: most partitions need not be looked through. */
  async #redrivenUntil(topic: string, partition: number): Promise<number> {
    const { keys, redis } = this.#context;
    const groups = await groupsOf(this.#context, topic, partition);
    const times = await Promise.all(
      groups.map(({ group }) => redis.commands.hget(keys.lease(topic, partition, group), "redriven")),
    );
    return Math.max(0, ...times.map(Number));
  }

  get #from(): string {
    return this.#timeMs === undefined ? "-" : String(this.#timeMs - EARLY_MS);
  }

  /** Whether it came to the end. */
  async #scan(place: Place, from: string, to: string): Promise<boolean> {
    for (let start = from; this.#left > 0; ) {
      const { last, isEnd } = await this.#step(place, start, to, false);
      if (isEnd) return true;
      start = `(${last}`;
    }
    return false;
  }

  async #step({ topic, partition }: Place, from: string, to: string, isReverse: boolean) {
    const { keys, redis } = this.#context;
    const [matches, last, scanned, isEnd] = await findScript(redis.commands, {
      stream: keys.topic(topic, partition),
      from,
      to,
      isReverse: isReverse ? "1" : "0",
      id: this.#id,
      scanMax: SCAN_MAX,
      bytesMax: SCAN_BYTES_MAX,
    });
    this.#left -= scanned;
    for (const [entry, header, bytes] of matches) {
      this.#found.set(`${topic}/${partition}/${entry}`, { topic, partition, entry, header, bytes });
    }
    return { last, isEnd: isEnd === 1 };
  }
}
