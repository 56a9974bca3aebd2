/**
 * Redrives in the background: errands (errand.ts) whose record says which letters, at what rate, and how far it has come.
 *
 *   startRedrive ──► running ──runRedrives, step by step──► done
 *                       └─────────cancelRedrive───────────► cancelled
 *
 * Any process may call runRedrives every second or so. A step notes the letters that it takes in hand before it redrives them. When it
 * dies, the next runner redrives these again, which has no effect for those that are done (redrive-letters.ts): they are counted as
 * redriven, for they are gone.
 */

import { AppError } from "../errors.ts";
import { newId } from "../id.ts";
import { defineScript, toAppError } from "../redis/index.ts";
import startLua from "../redis/lua/mq-redrive-start.lua" with { type: "text" };
import type { QueueContext } from "./consumer.ts";
import { claimErrand, type ErrandPlace, type ErrandState, noteErrand, runErrands, spendRate } from "./errand.ts";
import { formatLetterId, parseLetterId, partitionsOf, scanLetters } from "./letter-scan.ts";
import { boundsOf, type RedriveFilter, type RedriveResult, redriveLetters } from "./redrive-letters.ts";

/** Letters per second; more is no rate but a burst. */
export const PER_SECOND_MAX = 1_000;
/** Redrives that run at a time, over all groups: an operator starts them by hand. */
const RUNNING_MAX = 100;
/** Letters between two notes of the record. */
const CHUNK_MAX = 100;
/** Scan steps of one redrive in one step: 50 000 letters of which none matches, 0.3 s of Redis. */
const SCANS_MAX = 100;
/** A step takes well under a second; one that died is taken over after this. */
const LEASE_MS = 15_000;
/** A runner that comes late makes up for no more than this of its rate: the group is to see no burst. */
const BURST_MS = 5_000;
/** A week leaves an operator a weekend. */
const KEEP_MS = 7 * 24 * 3_600_000;

/** Which letters: these, or all that match (an empty filter: all there are). */
export type RedriveSelection =
  | { readonly ids: readonly string[]; readonly filter?: undefined }
  | { readonly filter: RedriveFilter; readonly ids?: undefined };

export type RedriveState = Exclude<ErrandState, "paused">;

export interface RedriveStatus {
  readonly id: string;
  readonly topic: string;
  readonly group: string;
  readonly state: RedriveState;
  readonly perSecond: number;
  /** How many letters ended how; together, how many it has looked at. */
  readonly results: Readonly<Record<RedriveResult, number>>;
  readonly createdAt: number;
  readonly endedAt: number | undefined;
}

const startScript = defineScript({
  name: "mqRedriveStart",
  lua: startLua,
  keys: ["running", "record"],
  args: ["id", "topic", "group", "selection", "perSecond", "runningMax"],
  decode: (reply) => reply === 1,
});

/** Records a redrive for the runners. Throws RATE_LIMITED when 100 run already; Redis errors. */
export async function startRedrive(
  { keys, redis }: QueueContext,
  id: string,
  {
    topic,
    group,
    selection,
    perSecond,
  }: Pick<RedriveStatus, "topic" | "group" | "perSecond"> & {
    readonly selection: RedriveSelection;
  },
): Promise<void> {
  const isStarted = await startScript(redis.commands, {
    running: keys.redrives(),
    record: keys.redrive(id),
    id,
    topic,
    group,
    selection: JSON.stringify(selection),
    perSecond,
    runningMax: RUNNING_MAX,
  });
  if (isStarted) return;
  throw new AppError("RATE_LIMITED", `${RUNNING_MAX} redrives run already; wait for one or cancel it`, {
    retryAfterMs: 10_000,
  });
}

/** How far a redrive in the background has come, until a week after its end; undefined when there is none. Throws AppError. */
export async function redriveStatus({ keys, redis }: QueueContext, id: string): Promise<RedriveStatus | undefined> {
  try {
    const of = await redis.commands.hgetall(keys.redrive(id));
    if (of.state === undefined) return undefined;
    return {
      id,
      topic: of.topic!,
      group: of.group!,
      state: of.state as RedriveState,
      perSecond: Number(of.per_second),
      results: toCounts(of.counts!),
      createdAt: Number(of.created),
      endedAt: of.ended ? Number(of.ended) : undefined,
    };
  } catch (error) {
    throw toAppError(error);
  }
}

/** Ends a redrive; what is in its runner's hands is still redriven. The state that it had ended in when it had. Throws AppError. */
export async function cancelRedrive(
  context: QueueContext,
  id: string,
): Promise<"ok" | "not_found" | Exclude<RedriveState, "running">> {
  try {
    const order = { runner: "", state: "cancelled", keepMs: KEEP_MS } as const;
    const outcome = await noteErrand(context.redis.commands, placeOf(context, id), order);
    return outcome as Exclude<typeof outcome, "lost" | "running" | "paused">;
  } catch (error) {
    throw toAppError(error);
  }
}

/**
 * One step of every redrive that runs: what its rate allows since its last step. To be called about once a second, by whichever
 * processes. Throws the first Redis error after it has tried all; again goes on from where each stood.
 */
export async function runRedrives(context: QueueContext): Promise<void> {
  await runErrands(
    context.redis.commands,
    context.keys.redrives(),
    (id) => new Step(context, id).run(),
    (redrive, error) => context.log.warn({ redrive, error }, "a redrive's step failed, the next one goes on"),
  );
}

/** As the hash keeps it. */
interface RedriveRecord {
  readonly topic: string;
  readonly group: string;
  readonly selection: RedriveSelection;
  readonly perSecond: number;
  readonly createdMs: number;
  /** Up to when, ms, its rate is used up. */
  spentMs: number;
  /** By filter: the partition that is looked through, as a place in the list of those that can have matches. By ids: 0. */
  partition: number;
  /** By filter: the last letter looked at in it, "" at its beginning. By ids: how many are done. */
  position: string;
  inHand: readonly string[];
  counts: Record<RedriveResult, number>;
}

/** One runner's step of one redrive. */
class Step {
  readonly #context: QueueContext;
  readonly #id: string;
  readonly #runner: string;
  #record!: RedriveRecord;

  constructor(context: QueueContext, id: string) {
    this.#context = context;
    this.#id = id;
    this.#runner = newId(context.clock.now());
  }

  async run(): Promise<void> {
    const { redis } = this.#context;
    const claim = await claimErrand(redis.commands, placeOf(this.#context, this.#id), this.#runner, LEASE_MS);
    if (claim === "held" || claim === "ended") return;
    this.#record = toRecord(claim.fields);
    // A runner died with these in hand: those that are gone it redrove.
    if (this.#record.inHand.length > 0) await this.#redriveInHand("redriven");
    let left = this.#spend(claim.nowMs);
    for (let scans = 0; left > 0 && scans < SCANS_MAX; scans++) {
      const { ids, isEnd } = await this.#next(Math.min(left, CHUNK_MAX));
      this.#record.inHand = ids;
      if (!(await this.#note())) return;
      if (ids.length > 0) await this.#redriveInHand("not_found");
      left -= ids.length;
      if (isEnd) {
        await this.#note("done");
        return;
      }
    }
    await this.#note("running", 0);
  }

  /** The letters that its rate allows now. */
  #spend(nowMs: number): number {
    const { count, spentMs } = spendRate(this.#record, nowMs, BURST_MS);
    this.#record.spentMs = spentMs;
    return count;
  }

  /** The next letters, and whether they are the last. The record's position is behind them then. */
  async #next(wanted: number): Promise<{ ids: readonly string[]; isEnd: boolean }> {
    const { ids, filter } = this.#record.selection;
    if (ids) {
      const first = Number(this.#record.position);
      const end = Math.min(ids.length, first + wanted);
      this.#record.position = String(end);
      return { ids: ids.slice(first, end), isEnd: end === ids.length };
    }
    return this.#scan(filter, wanted);
  }

  async #scan(filter: RedriveFilter, wanted: number): Promise<{ ids: readonly string[]; isEnd: boolean }> {
    const record = this.#record;
    const partitions = partitionsOf(this.#context, filter);
    const partition = partitions[record.partition];
    if (partition === undefined) return { ids: [], isEnd: true };
    const { topic, group } = record;
    // What is buried after the start, also what comes back from this very redrive, is not meant.
    const before = Math.min(filter.before ?? Number.POSITIVE_INFINITY, record.createdMs + 1);
    const { from, to } = boundsOf({ ...filter, before });
    const { matches, last, isEnd } = await scanLetters(this.#context, {
      ...{ topic, group, partition, conditions: filter, newestFirst: false, wanted, to },
      from: record.position === "" ? from : `(${record.position}`,
    });
    record.position = isEnd ? "" : last;
    if (isEnd) record.partition += 1;
    return { ids: matches.map(formatLetterId), isEnd: isEnd && record.partition >= partitions.length };
  }

  /** `gone`: what a letter counts as that is not there. */
  async #redriveInHand(gone: "redriven" | "not_found"): Promise<void> {
    const { topic, group, inHand, counts } = this.#record;
    const letters = inHand.map((id) => parseLetterId(id)!);
    for (const { result } of await redriveLetters(this.#context, topic, group, letters)) {
      counts[result === "not_found" ? gone : result] += 1;
    }
    this.#record.inHand = [];
  }

  /** Whether it is still this runner's, and to go on. */
  async #note(state: RedriveState = "running", leaseMs = LEASE_MS): Promise<boolean> {
    const { spentMs, partition, position, inHand, counts } = this.#record;
    const fields = [
      ...["spent", spentMs, "partition", partition, "position", position],
      ...["in_hand", JSON.stringify(inHand), "counts", JSON.stringify(counts)],
    ];
    const note = { runner: this.#runner, state, fields, leaseMs, keepMs: KEEP_MS };
    return (await noteErrand(this.#context.redis.commands, placeOf(this.#context, this.#id), note)) === "ok";
  }
}

function placeOf({ keys }: QueueContext, id: string): ErrandPlace {
  return { open: keys.redrives(), record: keys.redrive(id), id };
}

function toRecord(of: Readonly<Record<string, string>>): RedriveRecord {
  return {
    topic: of.topic!,
    group: of.group!,
    selection: JSON.parse(of.selection!) as RedriveSelection,
    perSecond: Number(of.per_second),
    createdMs: Number(of.created),
    spentMs: Number(of.spent),
    partition: Number(of.partition),
    position: of.position!,
    inHand: JSON.parse(of.in_hand!) as string[],
    counts: toCounts(of.counts!),
  };
}

function toCounts(json: string): Record<RedriveResult, number> {
  const none = { redriven: 0, not_found: 0, limit: 0, expired: 0, malformed: 0 };
  return { ...none, ...(JSON.parse(json) as Partial<Record<RedriveResult, number>>) };
}
