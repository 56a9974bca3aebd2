/**
 * What a consumer declares and what its handler may answer: the contract that the modes (ordered.ts, concurrent.ts, broadcast.ts)
 * share.
 *
 *   return            ack
 *   throw             retry after the back-off; after `maxAttempts` deliveries the message is buried
 *   throw Bury        buried now
 *   throw Later(ms)   again after ms, no attempt counted
 *
 * Before it returns it may `context.commit(effect)`: the ack, with writes and further messages, in one script.
 */

import { type Backoff, backoffMs, type Clock } from "../clock.ts";
import { AppError, type Issue } from "../errors.ts";
import { ID_PATTERN } from "../id.ts";
import type { Log, Metrics } from "../observability/index.ts";
import type { Keys, RedisConnections } from "../redis/index.ts";
import { DELAY_MS_DEFAULT } from "./delaying.ts";
import type { EffectInput, PublishRules } from "./effect.ts";
import type { Message } from "./message.ts";

export type GroupMode = "ordered" | "concurrent" | "broadcast";

/**
 * Where a group begins: with the oldest entry there is, after the newest, with the first entry at or after a time (ms), or with an
 * entry (it included).
 */
export type StartPoint = "first" | "latest" | { readonly time: number } | { readonly id: string };

/**
 * What becomes of an ordered group's message that used up its attempts, and with it of its key:
 *
 *   skip   it is buried, and its key goes on
 *   park   the key stands aside, with all that comes for it, until an operator unparks it; then all of it, in order
 *   block  it is tried for ever at the last back-off, and its key waits; others go on
 */
export type PoisonPolicy = "skip" | "park" | "block";

/** What a handler knows of the hand-out. */
export interface DeliveryContext {
  readonly partition: number;
  /** Fencing token: a sink that keeps the highest it saw can refuse a holder that was paused past its lease. */
  readonly token: number;
  /** Aborts when the lease is lost or the process stops hard; the outcome is dropped then. */
  readonly signal: AbortSignal;
  /**
   * Finishes the message (of a batch: all of it) together with writes to keys of the group's own in its partition and with messages
   * that follow from it: one script, under the fencing token. Done at most once however often the message is delivered, so it needs
   * no dedupe of the handler's. It is the last thing that a handler does: what it throws from here on changes nothing.
   *
   * Throws AppError, and nothing is done: INVALID, TOO_LARGE, LAYER_VIOLATION and RATE_LIMITED as publishWith; LEASE_LOST, then
   * another holder decides (or an answer was lost, and it is done). Not for broadcast groups: INVALID.
   */
  commit(effect?: EffectInput): Promise<void>;
}

export type Handler<D> = (message: Message<D>, context: DeliveryContext) => unknown;
/** All messages are of one partition, in its order. */
export type BatchHandler<D> = (messages: readonly Message<D>[], context: DeliveryContext) => unknown;

interface GroupOptions {
  /** 1..64 of [A-Za-z0-9_.-]. */
  readonly group: string;
  readonly mode: GroupMode;
  /** Where a group begins that never ran before; default `first`. A broadcast group begins there at each start; default `latest`. */
  readonly start?: StartPoint;
  /** Most messages of one partition in a batch, and per read; default 250. */
  readonly batchMax?: number;
  /**
   * Ordered groups: after a read that found messages, wait so long before the next, that more gather; left out while behind.
   * Default 0. A group in no hurry costs Redis and itself a quarter then: 0.65 µs per message in reads of 250, 2.6 in reads of 32
   * (design.md §11), and far more when every append wakes it.
   */
  readonly lingerMs?: number;
  /** Most messages of this member in the hands of handlers; default 1000. Batches may pass it by one read. */
  readonly inFlightMax?: number;
  /** Default 30 s; 1 s..12 h. Renewed at a third. */
  readonly leaseMs?: number;
  /** Deliveries before a message is buried; default 17 = 1 + 16 retries. `Infinity` holds its key until it succeeds. */
  readonly maxAttempts?: number;
  /** Ordered groups with single handlers: default `skip`. */
  readonly onPoison?: PoisonPolicy;
  /** Only messages with one of these tags are handed out; others are finished unseen. Default: all. */
  readonly tags?: readonly string[];
  /** Waits between attempts: a ladder in ms (its last step repeats), or doubling. */
  readonly backoff?: Backoff | readonly number[];
  /**
   * true (default): every message that a handler sees fits the schema; others are buried with their issues. false: for
   * high-volume groups that pass `raw` on; nothing is parsed.
   */
  readonly validate?: boolean;
}

export type ConsumeOptions<D> = GroupOptions &
  (
    | { readonly handle: Handler<D>; readonly handleBatch?: undefined }
    | { readonly handleBatch: BatchHandler<D>; readonly handle?: undefined }
  );

const s = 1_000;
const m = 60 * s;
/** RocketMQ's ladder of 16, the default of concurrent groups. */
export const RETRY_LADDER_MS: readonly number[] = [
  ...[
    10 * s,
    30 * s,
    m,
    2 * m,
    3 * m,
    4 * m,
    5 * m,
    6 * m,
    7 * m,
    8 * m,
    9 * m,
    10 * m,
    20 * m,
    30 * m,
    60 * m,
    120 * m,
  ],
];
/** For internal groups, whose failures are mostly a store that is away for a moment. */
export const RETRY_LADDER_SHORT_MS: readonly number[] = [s, 5 * s, 10 * s, 30 * s, m];
/** An ordered key waits in place: often enough to go on soon, 16 times so that 48 s of outage lose nothing. */
const RETRY_IN_PLACE_MS: readonly number[] = [3 * s];
/** A failed batch holds its whole partition, so it is tried again sooner, up to the pace of a key. */
const RETRY_BATCH_MS: readonly number[] = [100, 300, s, 3 * s];
const LADDER_JITTER = 0.1;

const BATCH_MAX = 250;
const IN_FLIGHT_MAX = 1_000;
const LEASE_MS = 30 * s;
export const LEASE_MS_MIN = s;
export const LEASE_MS_MAX = 12 * 3_600 * s;
const ATTEMPTS_MAX = 17;
/** Longer would eat into the shortest lease. */
const LINGER_MS_MAX = 500;
/** A filter is looked at per message that carries a tag. */
export const TAGS_MAX = 100;
const ENTRY_PATTERN = /^\d{1,15}(-\d{1,15})?$/;

/** A consumer's declaration with the defaults filled in. */
export interface Declaration<D> {
  readonly group: string;
  readonly mode: GroupMode;
  readonly start: StartPoint;
  readonly batchMax: number;
  readonly lingerMs: number;
  readonly inFlightMax: number;
  readonly leaseMs: number;
  readonly maxAttempts: number;
  readonly onPoison: PoisonPolicy;
  readonly tags: ReadonlySet<string> | undefined;
  readonly validate: boolean;
  readonly handle: Handler<D> | undefined;
  readonly handleBatch: BatchHandler<D> | undefined;
  /** For what handlers commit. */
  readonly publishing: PublishRules;
  /** The wait before the next attempt, after attempt 1, 2, … failed. */
  retryMs(attempt: number): number;
}

/** What every part of the queue works with. */
export interface QueueContext {
  readonly redis: RedisConnections;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  /** The name of this process among the members of a group; stable over restarts, unique among live ones. */
  readonly member: string;
}

const ANYTHING: PublishRules = { mayPublish: () => undefined, delayMsMax: DELAY_MS_DEFAULT };

/** Fills in the defaults. Throws AppError INVALID with one issue per setting out of range. */
export function declare<D>(options: ConsumeOptions<D>, publishing: PublishRules = ANYTHING): Declaration<D> {
  const { batchMax = BATCH_MAX, inFlightMax = IN_FLIGHT_MAX, leaseMs = LEASE_MS, maxAttempts = ATTEMPTS_MAX } = options;
  const { lingerMs = 0 } = options;
  const issues: Issue[] = [];
  const check = (path: string, isValid: boolean, message: string) => {
    if (!isValid) issues.push({ path, message });
  };
  check("group", ID_PATTERN.test(options.group), "must be 1..64 of [A-Za-z0-9_.-]");
  check("batchMax", isWithin(batchMax, 1, 1_000), "must be a whole number from 1 to 1000");
  check("inFlightMax", isWithin(inFlightMax, 1, 100_000), "must be a whole number from 1 to 100000");
  check("leaseMs", isWithin(leaseMs, LEASE_MS_MIN, LEASE_MS_MAX), `must be from ${LEASE_MS_MIN} to ${LEASE_MS_MAX}`);
  check("lingerMs", isWithin(lingerMs, 0, LINGER_MS_MAX), `must be a whole number from 0 to ${LINGER_MS_MAX}`);
  check("maxAttempts", maxAttempts >= 1, "must be at least 1");
  check("start", isStartPoint(options.start ?? "first"), "must be first, latest, a time in ms or an entry id");
  const { tags } = options;
  check("tags", tags === undefined || areTags(tags), `must be 1 to ${TAGS_MAX} of 1..64 of [A-Za-z0-9_.-]`);
  const mayPark = options.mode === "ordered" && options.handleBatch === undefined;
  check(
    "onPoison",
    options.onPoison !== "park" || mayPark,
    "park is for ordered groups with single handlers: a batch has many keys",
  );
  check("handle", (options.handle === undefined) !== (options.handleBatch === undefined), "or handleBatch: give one");
  if (issues.length > 0) {
    const lines = issues.map(({ path, message }) => `${path} ${message}`).join("; ");
    throw new AppError("INVALID", `group ${options.group}: ${lines}`, { issues });
  }
  const inPlace = options.handleBatch ? RETRY_BATCH_MS : RETRY_IN_PLACE_MS;
  const backoff = options.backoff ?? (options.mode === "ordered" ? inPlace : RETRY_LADDER_MS);
  return {
    group: options.group,
    mode: options.mode,
    start: options.start ?? (options.mode === "broadcast" ? "latest" : "first"),
    batchMax,
    lingerMs,
    inFlightMax,
    leaseMs,
    maxAttempts: options.onPoison === "block" ? Number.POSITIVE_INFINITY : maxAttempts,
    onPoison: options.onPoison ?? "skip",
    tags: options.tags && new Set(options.tags),
    validate: options.validate ?? true,
    handle: options.handle,
    handleBatch: options.handleBatch,
    publishing,
    retryMs: (attempt) => ("firstMs" in backoff ? backoffMs(attempt, backoff) : stepMs(backoff, attempt)),
  };
}

export function isStartPoint(start: StartPoint): boolean {
  if (typeof start === "string") return start === "first" || start === "latest";
  return "time" in start ? Number.isSafeInteger(start.time) && start.time >= 0 : ENTRY_PATTERN.test(start.id);
}

function areTags(tags: readonly string[]): boolean {
  return tags.length >= 1 && tags.length <= TAGS_MAX && tags.every((tag) => ID_PATTERN.test(tag));
}

function isWithin(value: number, min: number, max: number): boolean {
  return Number.isInteger(value) && value >= min && value <= max;
}

function stepMs(ladder: readonly number[], attempt: number): number {
  const firstMs = ladder[Math.min(attempt, ladder.length) - 1] ?? 0;
  return backoffMs(1, { firstMs, maxMs: firstMs, jitter: LADDER_JITTER });
}
