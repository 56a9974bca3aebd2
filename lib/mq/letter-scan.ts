/**
 * Dead letters by place: their ids and order over all partitions, and the search for those that meet some conditions, step by
 * bounded step, without reading their bodies.
 *
 *   3-1753000000000-0     a letter's id: its partition, and its entry in the stream of dead letters (when it was buried)
 */

import { AppError, type Issue } from "../errors.ts";
import { ID_PATTERN } from "../id.ts";
import { defineScript } from "../redis/index.ts";
import scanLua from "../redis/lua/mq-dead-scan.lua" with { type: "text" };
import type { QueueContext } from "./consumer.ts";
import { compareEntries } from "./stream.ts";

/** Letters looked at per script call: 3 ms of Redis, for each has 14 fields. */
const SCAN_MAX = 500;
const SCAN_BYTES_MAX = 2 * 1024 * 1024;
/** No stored error is longer. */
const ERROR_LENGTH_MAX = 1_000;
const KEY_LENGTH_MAX = 256;

/** Where in the order of all partitions: letters are ordered by entry, those of one entry id by partition. */
export interface LetterPosition {
  readonly partition: number;
  readonly entry: string;
}

export interface LetterMatch extends LetterPosition {
  readonly bytes: number;
}

/** What scanLetters looks for; "" and undefined: not looked at. */
export interface LetterConditions {
  readonly key?: string | undefined;
  readonly messageId?: string | undefined;
  readonly error?: string | undefined;
}

export interface LetterScan {
  readonly topic: string;
  readonly group: string;
  readonly partition: number;
  /** Bounds as XRANGE takes them; of a scan that is `newestFirst`, `from` is the later one. */
  readonly from: string;
  readonly to: string;
  readonly newestFirst: boolean;
  readonly conditions: LetterConditions;
  readonly wanted: number;
}

export interface ScannedLetters {
  readonly partition: number;
  readonly matches: readonly LetterMatch[];
  /** Entry of the last letter looked at. */
  readonly last: string;
  /** Nothing is left behind it. */
  readonly isEnd: boolean;
}

type ScanReply = [matches: [id: string, bytes: number][], last: string, isEnd: 0 | 1];

const scanScript = defineScript({
  name: "mqDeadScan",
  lua: scanLua,
  keys: ["dead"],
  args: ["from", "to", "isReverse", "key", "id", "errorText", "errorJson", "wanted", "scanMax", "bytesMax"],
  decode: (reply) => reply as ScanReply,
});

/** Matching letters of one partition, one bounded step. Throws Redis errors. */
export async function scanLetters(context: QueueContext, scan: LetterScan): Promise<ScannedLetters> {
  const { keys, redis } = context;
  const { topic, group, partition, conditions } = scan;
  const error = conditions.error ?? "";
  const [matches, last, isEnd] = await scanScript(redis.commands, {
    dead: keys.deadLetters(topic, partition, group),
    from: scan.from,
    to: scan.to,
    isReverse: scan.newestFirst ? "1" : "0",
    key: conditions.key ?? "",
    id: conditions.messageId ?? "",
    errorText: error,
    // As it stands inside the JSON of the history.
    errorJson: JSON.stringify(error).slice(1, -1),
    wanted: scan.wanted,
    scanMax: SCAN_MAX,
    bytesMax: SCAN_BYTES_MAX,
  });
  const found = matches.map(([entry, bytes]) => ({ partition, entry, bytes }));
  return { partition, matches: found, last, isEnd: isEnd === 1 };
}

/** The partitions in which letters with these conditions can lie: of a key, one. */
export function partitionsOf({ keys }: QueueContext, { key }: LetterConditions): readonly number[] {
  if (key) return [keys.partitionOf(key)];
  return Array.from({ length: keys.partitions }, (_, partition) => partition);
}

export function formatLetterId({ partition, entry }: LetterPosition): string {
  return `${partition}-${entry}`;
}

/** undefined when it is not one. */
export function parseLetterId(id: string): LetterPosition | undefined {
  const match = /^(\d{1,4})-(\d{1,15}-\d{1,15})$/.exec(id);
  return match ? { partition: Number(match[1]), entry: match[2]! } : undefined;
}

/** Orders positions by age, oldest first. */
export function comparePositions(a: LetterPosition, b: LetterPosition): number {
  return compareEntries(a.entry, b.entry) || a.partition - b.partition;
}

/** The faults of a filter's texts. */
export function conditionIssues({ key, error }: LetterConditions): Issue[] {
  const issues: Issue[] = [];
  if (key !== undefined && (key === "" || key.length > KEY_LENGTH_MAX)) {
    issues.push({ path: "key", message: `must be 1 to ${KEY_LENGTH_MAX} characters` });
  }
  if (error !== undefined && (error === "" || error.length > ERROR_LENGTH_MAX)) {
    issues.push({ path: "error", message: `must be 1 to ${ERROR_LENGTH_MAX} characters` });
  }
  return issues;
}

/** Throws INVALID with the issues, those of the names among them. */
export function refuse(issues: readonly Issue[], topic: string, group: string): void {
  const names = Object.entries({ topic, group }).filter(([, name]) => !ID_PATTERN.test(name));
  const all = [...names.map(([path]) => ({ path, message: "must be 1..64 of [A-Za-z0-9_.-]" })), ...issues];
  if (all.length === 0) return;
  const text = all.map(({ path, message }) => `${path} ${message}`).join("; ");
  throw new AppError("INVALID", `dead letters of ${topic}/${group}: ${text}`, { issues: all });
}
