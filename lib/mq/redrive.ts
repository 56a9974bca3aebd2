/**
 * The call that redrives: which letters are meant, and whether they are redriven within it (redrive-letters.ts) or, more than 500 or
 * at a rate, in the background (redrive-runner.ts).
 */

import type { Issue } from "../errors.ts";
import { newId } from "../id.ts";
import { toAppError } from "../redis/index.ts";
import type { QueueContext } from "./consumer.ts";
import {
  comparePositions,
  conditionIssues,
  formatLetterId,
  type LetterPosition,
  parseLetterId,
  partitionsOf,
  refuse,
  scanLetters,
} from "./letter-scan.ts";
import { boundsOf, type RedriveFilter, type RedriveResult, redriveLetters } from "./redrive-letters.ts";
import { PER_SECOND_MAX, type RedriveSelection, startRedrive } from "./redrive-runner.ts";

/** Done within a call: some 50 ms of Redis in scripts of a few ms. */
const INLINE_MAX = 500;
/** A list of ids is kept whole in the record of its redrive: 100 KB. */
const IDS_MAX = 5_000;
/** Scan steps of one partition within a call. 6 250 letters of 1 KB are 13; with bodies of 256 KB each step is 8 letters. */
const SCANS_MAX = 1_000;

export interface RedriveOptions {
  /** Changes nothing; the results say what would become of the letters. */
  readonly dryRun?: boolean;
  /** 1..1000: runs in the background at this rate. */
  readonly perSecond?: number;
}

export interface RedriveReply {
  /** How many letters are meant. Of a redrive by filter in the background: how many were seen at its start, at least. */
  readonly matched: number;
  /** What became of each, oldest first or in the order of the ids; of a dry run the first 500. Empty when it runs in the background. */
  readonly results: readonly { readonly id: string; readonly result: RedriveResult }[];
  /** The redrive's id when it runs in the background. */
  readonly redrive: string | undefined;
}

/**
 * Redrives dead letters of a group. Throws AppError: INVALID names the field and its limit; OVERLOADED; UNKNOWN_OUTCOME and errors in
 * between leave some redriven: again gives those `not_found`.
 */
export async function redrive(
  context: QueueContext,
  topic: string,
  group: string,
  selection: RedriveSelection,
  options: RedriveOptions,
): Promise<RedriveReply> {
  refuse([...selectionIssues(selection), ...rateIssues(options)], topic, group);
  try {
    const ids = selection.ids && [...new Set(selection.ids)];
    const found = ids
      ? { positions: ids.map((id) => parseLetterId(id)!), count: ids.length, isAll: true }
      : await findLetters(context, topic, group, selection.filter!, options.dryRun === true);
    const { positions, count } = found;
    if (options.dryRun) {
      const shown = positions.slice(0, INLINE_MAX);
      return { matched: count, results: await redriveLetters(context, topic, group, shown, true), redrive: undefined };
    }
    if (options.perSecond === undefined && found.isAll && count <= INLINE_MAX) {
      return { matched: count, results: await redriveLetters(context, topic, group, positions), redrive: undefined };
    }
    const id = newId(context.clock.now());
    await startRedrive(context, id, {
      topic,
      group,
      selection: ids ? { ids: positions.sort(comparePositions).map(formatLetterId) } : selection,
      perSecond: options.perSecond ?? PER_SECOND_MAX,
    });
    return { matched: count, results: [], redrive: id };
  } catch (error) {
    throw toAppError(error);
  }
}

/** The letters that a filter means, oldest first; as many as a call redrives, and with `isCounting` how many there are in all. */
async function findLetters(
  context: QueueContext,
  topic: string,
  group: string,
  filter: RedriveFilter,
  isCounting: boolean,
) {
  const scans = await Promise.all(
    partitionsOf(context, filter).map(async (partition) => {
      const positions: LetterPosition[] = [];
      let { from, to } = boundsOf(filter);
      let count = 0;
      for (let scans = 0; scans < SCANS_MAX; scans++) {
        const step = { topic, group, partition, from, to, newestFirst: false, conditions: filter };
        const { matches, last, isEnd } = await scanLetters(context, { ...step, wanted: INLINE_MAX + 1 });
        positions.push(...matches.slice(0, INLINE_MAX + 1 - positions.length));
        count += matches.length;
        if (isEnd) return { positions, count, isEnd };
        if (!isCounting && count > INLINE_MAX) break;
        from = `(${last}`;
      }
      return { positions, count, isEnd: false };
    }),
  );
  return {
    positions: scans.flatMap(({ positions }) => positions).sort(comparePositions),
    count: scans.reduce((total, { count }) => total + count, 0),
    isAll: scans.every(({ isEnd }) => isEnd),
  };
}

function selectionIssues({ ids, filter }: RedriveSelection): Issue[] {
  if ((ids === undefined) === (filter === undefined)) return [{ path: "ids", message: "or filter: give exactly one" }];
  if (ids) {
    if (ids.length < 1 || ids.length > IDS_MAX) return [{ path: "ids", message: `must be 1 to ${IDS_MAX}` }];
    return ids.flatMap((id, i) =>
      parseLetterId(id) ? [] : [{ path: `ids.${i}`, message: "must be <partition>-<ms>-<count>" }],
    );
  }
  const times = Object.entries({ before: filter!.before, after: filter!.after }).filter(
    ([, time]) => time !== undefined && !(Number.isSafeInteger(time) && time >= 0),
  );
  return [
    ...conditionIssues(filter!),
    ...times.map(([path]) => ({ path: `filter.${path}`, message: "must be a time in Unix ms" })),
  ];
}

function rateIssues({ perSecond }: RedriveOptions): Issue[] {
  if (perSecond === undefined) return [];
  const isValid = Number.isInteger(perSecond) && perSecond >= 1 && perSecond <= PER_SECOND_MAX;
  return isValid ? [] : [{ path: "perSecond", message: `must be a whole number from 1 to ${PER_SECOND_MAX}` }];
}
