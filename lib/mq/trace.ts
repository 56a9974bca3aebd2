/**
 * The life of one message, by its id: where it was committed, what each group has made of it, the dead letters that it became, the
 * entries under which it came again, and the records that it came from.
 *
 * Costs a few ms of Redis mostly, for ids carry their time; up to half a second, in slices, for one that does not (entry-search.ts).
 * What is looked through is bounded: `not_found` with `isComplete: false` means that it may lie where the search did not come to.
 */

import * as v from "valibot";
import { AppError } from "../errors.ts";
import { toAppError } from "../redis/index.ts";
import type { Catalog } from "./catalog.ts";
import type { QueueContext } from "./consumer.ts";
import type { DeadLetters, StoredDeadLetter } from "./dead-letters.ts";
import type { Delayed, DelayedMessage } from "./delayed.ts";
import { type FoundEntry, type KnownEntry, searchEntries, timeToldBy } from "./entry-search.ts";
import type { HalfDetails } from "./half.ts";
import { formatLetterId, scanLetters } from "./letter-scan.ts";
import { Delivery } from "./message.ts";
import { groupsOf, type RegisteredGroup } from "./retention.ts";
import { compareEntries } from "./stream.ts";
import { defineTopic } from "./topic.ts";
import { type TracedDelivery, type TracedEntry, traceDelivery } from "./trace-delivery.ts";
import type { Transactions } from "./transaction.ts";

/** As publishing takes them. */
const ID_LENGTH_MAX = 128;
/** Dead letters kept of one message by one group: it is redriven three times. */
const LETTERS_MAX = 8;
/** Full steps through dead letters in one trace: 100 000 of them, 0.6 s of Redis in slices of 3 ms. */
const LETTER_SCANS_MAX = 200;

/** One entry under the id. */
export interface TracedCommit extends TracedEntry {
  /** When Redis appended it, ms. */
  readonly time: number;
  readonly type: string;
  readonly sequence: number | undefined;
  readonly originSequence: string | undefined;
  readonly expireAt: number | undefined;
  /** How often it had been redriven then. */
  readonly redrives: number;
  /** Of its data. */
  readonly bytes: number;
}

/** What it was before it was a message, while that is remembered. */
export type TracedRecord =
  | { readonly kind: "half"; readonly record: HalfDetails }
  | { readonly kind: "delayed"; readonly record: DelayedMessage };

export interface Trace {
  readonly id: string;
  readonly verdict: "found" | "not_found";
  /** false: the bound ended the search before all was looked through. */
  readonly isComplete: boolean;
  readonly entriesLookedAt: number;
  readonly records: readonly TracedRecord[];
  /** Oldest first; behind the first, the times that it was redriven. Trimmed entries are gone. */
  readonly commits: readonly TracedCommit[];
  /** Per group and entry that is for it. Of a message whose entries are gone: its dead letters' groups. */
  readonly deliveries: readonly TracedDelivery[];
  /** As they lie there now. */
  readonly deadLetters: readonly StoredDeadLetter[];
}

export interface TraceSources {
  readonly catalog: Pick<Catalog, "topics" | "groups">;
  readonly deadLetters: Pick<DeadLetters, "get">;
  readonly transactions: Pick<Transactions, "get">;
  readonly delayed: Pick<Delayed, "get">;
}

/** Throws AppError: INVALID, OVERLOADED. */
export async function traceMessage(context: QueueContext, sources: TraceSources, id: string): Promise<Trace> {
  if (id.length < 1 || id.length > ID_LENGTH_MAX || /\s/.test(id)) {
    const message = `must be 1 to ${ID_LENGTH_MAX} characters without white space`;
    throw new AppError("INVALID", `id ${message}`, { issues: [{ path: "id", message }] });
  }
  try {
    const topics = (await sources.catalog.topics()).map(({ topic }) => topic);
    const records = await recordsOf(sources, id);
    const search = await searchEntries(context, id, topics, records.flatMap(entryOf));
    const commits = search.found.map(toCommit);
    const letters = await new LetterSearch(context, sources, id).run(commits, topics);
    const deliveries = await deliveriesOf(context, sources, commits);
    const isFound = records.length + commits.length + letters.found.length > 0;
    return {
      id,
      verdict: isFound ? "found" : "not_found",
      isComplete: search.isComplete && letters.isComplete,
      entriesLookedAt: search.entriesLookedAt,
      records,
      commits,
      deliveries: withLetters(deliveries, commits, letters.found),
      deadLetters: letters.found,
    };
  } catch (error) {
    throw toAppError(error);
  }
}

async function recordsOf({ transactions, delayed }: TraceSources, id: string): Promise<TracedRecord[]> {
  const half = transactions.get(id).catch((error: unknown) => {
    if (error instanceof AppError && error.code === "NOT_FOUND") return undefined;
    throw error;
  });
  const [halfRecord, delayedRecord] = await Promise.all([half, delayed.get(id)]);
  return [
    ...(halfRecord ? [{ kind: "half" as const, record: halfRecord }] : []),
    ...(delayedRecord ? [{ kind: "delayed" as const, record: delayedRecord }] : []),
  ];
}

/** Where the record says that the message is, under its own id. */
function entryOf({ kind, record }: TracedRecord): KnownEntry[] {
  const { id, topic, entry } = record;
  const hasOtherId = kind === "half" && record.messageId !== id;
  return entry === undefined || hasOtherId ? [] : [{ topic, entry }];
}

const anyTopic = (name: string) => defineTopic(name, { schema: v.unknown() });

function toCommit({ topic, partition, entry, header, bytes }: FoundEntry): TracedCommit {
  const message = new Delivery(anyTopic(topic), partition, [entry, [header, ""]]);
  const { key, tag, time, type, sequence, originSequence, expireAt, redrives, attributes } = message;
  return {
    ...{ topic, partition, entry, time, key, type, tag, sequence, originSequence, expireAt, redrives, bytes },
    addressedTo: attributes.g,
  };
}

async function deliveriesOf(
  context: QueueContext,
  { catalog }: TraceSources,
  commits: readonly TracedCommit[],
): Promise<TracedDelivery[]> {
  const all = await Promise.all(
    commits.map(async (commit) => {
      const [groups, declared] = await Promise.all([
        groupsOf(context, commit.topic, commit.partition),
        catalog.groups(commit.topic),
      ]);
      const tagsOf = (name: string) => declared.find(({ group }) => group === name)?.settings.tags;
      // One that was redriven is for its group alone: what others make of it is no news.
      const meant = groups.filter(({ group }) => commit.addressedTo === undefined || commit.addressedTo === group);
      return Promise.all(meant.map((group) => traceDelivery(context, commit, group, tagsOf(group.group))));
    }),
  );
  return all.flat();
}

/** A group is past what it buried, too: the letter, or the later entry that it became, tells what became of it. */
function withLetters(
  deliveries: readonly TracedDelivery[],
  commits: readonly TracedCommit[],
  letters: readonly StoredDeadLetter[],
): TracedDelivery[] {
  const told = deliveries.map((delivery): TracedDelivery => {
    if (delivery.state !== "finished") return delivery;
    const { topic, group, partition, entry } = delivery;
    const letter = letters.find((other) => other.topic === topic && other.group === group && other.entry === entry);
    if (letter) return { ...delivery, ...toldBy(letter) };
    const isRedriven = commits.some(
      (later) =>
        later.topic === topic &&
        later.partition === partition &&
        later.addressedTo === group &&
        compareEntries(later.entry, entry) > 0,
    );
    return isRedriven ? { ...delivery, state: "redriven" } : delivery;
  });
  const untold = letters.filter(
    ({ id, group }) => !told.some((other) => other.deadLetter === id && other.group === group),
  );
  return [...told, ...untold.map(toDelivery)];
}

function toldBy({ id, member, attempts, attemptCount }: StoredDeadLetter) {
  return { state: "dead_letter" as const, deadLetter: id, member, attempts, attemptCount };
}

/** Of a letter whose entry is gone. */
function toDelivery(letter: StoredDeadLetter): TracedDelivery {
  const { topic, group, id, entry } = letter;
  return { topic, group, mode: undefined, partition: Number(id.split("-")[0]), entry, ...toldBy(letter) };
}

/** Dead letters of one message: in the partitions where it was committed, or, when its entries are gone, everywhere. */
class LetterSearch {
  readonly #context: QueueContext;
  readonly #sources: TraceSources;
  readonly #id: string;
  #left = LETTER_SCANS_MAX;

  constructor(context: QueueContext, sources: TraceSources, id: string) {
    this.#context = context;
    this.#sources = sources;
    this.#id = id;
  }

  async run(commits: readonly TracedCommit[], topics: readonly string[]) {
    const places = new Map<string, Set<number>>();
    if (commits.length === 0) {
      const all = Array.from({ length: this.#context.keys.partitions }, (_, partition) => partition);
      for (const topic of topics) places.set(topic, new Set(all));
    }
    for (const { topic, partition } of commits) places.set(topic, (places.get(topic) ?? new Set()).add(partition));
    const found: StoredDeadLetter[] = [];
    let isComplete = true;
    for (const [topic, partitions] of places) {
      const scans = await Promise.all([...partitions].map((partition) => this.#scanGroups(topic, partition)));
      found.push(...scans.flat().flatMap((scan) => scan.found));
      isComplete &&= scans.flat().every((scan) => scan.isComplete);
    }
    return { found: found.sort((a, b) => a.buriedAt - b.buriedAt), isComplete };
  }

  async #scanGroups(topic: string, partition: number) {
    const groups = await groupsOf(this.#context, topic, partition);
    return Promise.all(groups.map((group) => this.#scan(topic, partition, group)));
  }

  async #scan(topic: string, partition: number, { group }: RegisteredGroup) {
    const found: StoredDeadLetter[] = [];
    const timeMs = timeToldBy(this.#id, this.#context.clock.now());
    for (let from = timeMs === undefined ? "-" : String(timeMs); this.#left > 0; ) {
      const scan = await scanLetters(this.#context, {
        ...{ topic, group, partition, from, to: "+", newestFirst: false, wanted: LETTERS_MAX },
        conditions: { messageId: this.#id },
      });
      for (const match of scan.matches) {
        const letter = await this.#sources.deadLetters.get(topic, group, formatLetterId(match));
        if (letter) found.push(letter);
      }
      if (scan.isEnd) return { found, isComplete: true };
      this.#left -= 1;
      from = `(${scan.last}`;
    }
    return { found, isComplete: false };
  }
}
