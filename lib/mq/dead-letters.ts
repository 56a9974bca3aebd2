/**
 * What an operator does with dead letters: pages of them, newest first over all partitions, one by its id, and redriving
 * (redrive.ts, redrive-runner.ts).
 *
 * A page is put together from the matches of all partitions, without their bodies, and only its own letters are then read. Every
 * call looks at a bounded number of letters; where it stopped is its `next`, so a rare error is found page by page.
 */

import { toAppError } from "../redis/index.ts";
import type { QueueContext } from "./consumer.ts";
import type { BuryReason } from "./dead-letter.ts";
import {
  comparePositions,
  conditionIssues,
  formatLetterId,
  type LetterMatch,
  type LetterPosition,
  parseLetterId,
  partitionsOf,
  refuse,
  type ScannedLetters,
  scanLetters,
} from "./letter-scan.ts";
import { type AttemptNote, parseAttributes, timeOfEntry } from "./message.ts";
import { type RedriveOptions, type RedriveReply, redrive } from "./redrive.ts";
import {
  cancelRedrive,
  type RedriveSelection,
  type RedriveState,
  type RedriveStatus,
  redriveStatus,
  runRedrives,
} from "./redrive-runner.ts";

/** Letters per page. */
const LIMIT_MAX = 200;
const LIMIT_DEFAULT = 50;
/** A page with bodies of 256 KB is cut to what a caller wants to hold and a terminal to print. */
const PAGE_BYTES_MAX = 4 * 1024 * 1024;
/** A dead letter as it lies there. */
export interface StoredDeadLetter {
  /** `<partition>-<stream id>`. */
  readonly id: string;
  readonly messageId: string;
  readonly topic: string;
  readonly group: string;
  readonly key: string;
  /** "" of an entry that was no message: `data` holds its fields then. */
  readonly type: string;
  readonly tag: string;
  /** JSON text, untouched. */
  readonly data: string;
  /** JSON text, "" when there are none. */
  readonly properties: string;
  readonly reason: BuryReason;
  readonly firstError: string;
  readonly lastError: string;
  /** The first failed attempt and the latest, in turn. */
  readonly attempts: readonly { readonly at: number; readonly member: string; readonly error: string }[];
  /** Deliveries counted when it was buried. */
  readonly attemptCount: number;
  /** Unix ms; undefined when no attempt failed before it was buried. */
  readonly firstFailureAt: number | undefined;
  readonly buriedAt: number;
  /** Who buried it. */
  readonly member: string;
  /** How often it was brought back before. */
  readonly redrives: number;
  readonly sequence: number | undefined;
  /** Of a message that came later than its place: its first sequence or entry. */
  readonly originSequence: string | undefined;
  /** The message's place in the topic's partition, and when it was appended there, ms. */
  readonly entry: string;
  readonly time: number;
}

export interface DeadLetterQuery {
  /** Only messages with this order key. */
  readonly key?: string;
  /** A text that occurs in one of the errors. */
  readonly error?: string;
  /** Only what was buried before: the `next` of a page, a letter's id, or Unix ms as digits. */
  readonly before?: string;
  /** 1..200; default 50. */
  readonly limit?: number;
}

export interface DeadLetterPage {
  readonly letters: readonly StoredDeadLetter[];
  /** Give it as `before` to go on; undefined at the end. A page may hold fewer letters than asked for, or none, and go on. */
  readonly next: string | undefined;
}

export interface DeadLetters {
  /** A page, newest first. One script call per partition (of a key: one), then one command per letter. Throws AppError. */
  list(topic: string, group: string, query?: DeadLetterQuery): Promise<DeadLetterPage>;
  /** One letter, or undefined when it is not there (any more). Throws AppError. */
  get(topic: string, group: string, id: string): Promise<StoredDeadLetter | undefined>;
  /**
   * Gives letters back to their group, oldest first: up to 500 within the call, more, or any number at a rate, in the background.
   * Throws AppError: INVALID names the field and its limit; RATE_LIMITED when 100 redrives run; an error in between leaves some
   * redriven, and again is safe: it gives those `not_found`.
   */
  redrive(topic: string, group: string, selection: RedriveSelection, options?: RedriveOptions): Promise<RedriveReply>;
  /** How far a redrive in the background has come, until a week after its end; undefined when there is none. */
  redriveStatus(id: string): Promise<RedriveStatus | undefined>;
  /** Ends one; what is in its runner's hands is still redriven. When it had ended: how. */
  cancelRedrive(id: string): Promise<"ok" | "not_found" | Exclude<RedriveState, "running">>;
  /** One step of every redrive that runs; the scheduler calls it every second. Throws Redis errors; again goes on. */
  runRedrives(): Promise<void>;
}

export function createDeadLetters(context: QueueContext): DeadLetters {
  return {
    list: (topic, group, query = {}) => list(context, topic, group, query),
    get: (topic, group, id) => get(context, topic, group, id),
    redrive: (topic, group, selection, options = {}) => redrive(context, topic, group, selection, options),
    redriveStatus: (id) => redriveStatus(context, id),
    cancelRedrive: (id) => cancelRedrive(context, id),
    runRedrives: () => runRedrives(context),
  };
}

async function list(
  context: QueueContext,
  topic: string,
  group: string,
  query: DeadLetterQuery,
): Promise<DeadLetterPage> {
  const { limit = LIMIT_DEFAULT, before } = query;
  const issues = conditionIssues(query);
  if (!(Number.isInteger(limit) && limit >= 1 && limit <= LIMIT_MAX)) {
    issues.push({ path: "limit", message: `must be a whole number from 1 to ${LIMIT_MAX}` });
  }
  const bound = before === undefined ? undefined : parseBefore(before);
  if (bound === "invalid") issues.push({ path: "before", message: "must be a letter's id or a time in Unix ms" });
  refuse(issues, topic, group);
  try {
    const scans = await Promise.all(
      partitionsOf(context, query).map((partition) =>
        scanLetters(context, {
          ...{ topic, group, partition, conditions: query, wanted: limit, newestFirst: true, to: "-" },
          from: bound === undefined || bound === "invalid" ? "+" : startOf(bound, partition),
        }),
      ),
    );
    const { page, next } = cutPage(scans, limit);
    const letters = await Promise.all(page.map((at) => readLetter(context, topic, group, at)));
    return {
      // One that was redriven or evicted meanwhile is gone.
      letters: letters.filter((letter) => letter !== undefined),
      next: next && formatLetterId(next),
    };
  } catch (error) {
    throw toAppError(error);
  }
}

async function get(
  context: QueueContext,
  topic: string,
  group: string,
  id: string,
): Promise<StoredDeadLetter | undefined> {
  const at = parseLetterId(id);
  refuse(at ? [] : [{ path: "id", message: "must be <partition>-<ms>-<count>" }], topic, group);
  if (!at || at.partition >= context.keys.partitions) return undefined;
  try {
    return await readLetter(context, topic, group, at);
  } catch (error) {
    throw toAppError(error);
  }
}

/** A time stands for the first possible letter of its ms. */
function parseBefore(before: string): LetterPosition | "invalid" {
  if (/^\d{1,15}$/.test(before)) return { partition: 0, entry: `${before}-0` };
  return parseLetterId(before) ?? "invalid";
}

/** The latest entry of a partition that lies before a position, as XREVRANGE takes it. */
function startOf({ partition, entry }: LetterPosition, of: number): string {
  return of < partition ? entry : `(${entry}`;
}

/**
 * The newest of what was found, and where the next page begins. A match is shown when no other can precede it: where a partition's
 * scan stopped short, what lies behind that place is not known, and matches of other partitions from before it have to wait.
 */
function cutPage(scans: readonly ScannedLetters[], limit: number) {
  const stops = scans.filter(({ isEnd }) => !isEnd).map(({ partition, last }) => ({ partition, entry: last }));
  const horizon = stops.sort(comparePositions).at(-1);
  const known = scans
    .flatMap(({ matches }) => matches)
    .filter((match) => horizon === undefined || comparePositions(match, horizon) >= 0)
    .sort((a, b) => comparePositions(b, a));
  const page: LetterMatch[] = [];
  let bytes = 0;
  for (const match of known) {
    bytes += match.bytes;
    if (page.length >= limit || (page.length > 0 && bytes > PAGE_BYTES_MAX)) break;
    page.push(match);
  }
  return { page, next: page.length < known.length ? page.at(-1) : horizon };
}

async function readLetter(
  { keys, redis }: QueueContext,
  topic: string,
  group: string,
  at: LetterPosition,
): Promise<StoredDeadLetter | undefined> {
  const stream = keys.deadLetters(topic, at.partition, group);
  const [letter] = await redis.commands.xrange(stream, at.entry, at.entry);
  return letter && toLetter(topic, group, at, letter[1]);
}

function toLetter(topic: string, group: string, at: LetterPosition, fields: readonly string[]): StoredDeadLetter {
  const of: Record<string, string | undefined> = {};
  for (let i = 0; i < fields.length; i += 2) of[fields[i]!] = fields[i + 1];
  const attributes = parseAttributes(of.a ?? "");
  const history = JSON.parse(of.history || "[]") as AttemptNote[];
  const lastError = of.error ?? "";
  return {
    id: formatLetterId(at),
    messageId: of.i ?? "",
    topic,
    group,
    key: of.k ?? "",
    type: of.t ?? "",
    tag: attributes.t ?? "",
    data: of.d ?? "",
    properties: of.p ?? "",
    reason: of.reason as BuryReason,
    firstError: history[0]?.[2] ?? lastError,
    lastError,
    attempts: history.map(([time, member, error]) => ({ at: time, member, error })),
    attemptCount: Number(of.attempts ?? 0),
    firstFailureAt: of.first ? Number(of.first) : undefined,
    buriedAt: timeOfEntry(at.entry),
    member: of.member ?? "",
    redrives: Number(attributes.r ?? 0),
    sequence: of.s ? Number(of.s) : undefined,
    originSequence: attributes.o,
    entry: of.entry ?? "",
    time: timeOfEntry(of.entry ?? "0-0"),
  };
}
