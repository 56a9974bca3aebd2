/**
 * How far a group has come in a partition, as a checkpoint and the few entries below it that are not finished: under a failing
 * key the finished are many and the open are few, so the open are what is kept.
 *
 *   1 2 3 4 5 6 7 8 9      finished 1 2 4 5 7: checkpoint 7, open 3 6
 */

import type { DeadLetter } from "./dead-letter.ts";
import { compareEntries } from "./stream.ts";

/** An unfinished entry below the checkpoint, with what it cost so far. */
export interface OpenEntry {
  readonly entry: string;
  /** Failed attempts. */
  readonly attempts: number;
  readonly firstFailureMs: number;
}

/** How far a group has come in a partition: all up to `checkpoint` is finished, except `open`. */
export interface Progress {
  readonly checkpoint: string;
  /** Entries ever added to the partition up to the checkpoint. */
  readonly read: number;
  /** In the partition's order. */
  readonly open: readonly OpenEntry[];
}

/** Whether an entry is finished as far as `progress` knows. */
export function isFinished(entry: string, { checkpoint, open }: Progress): boolean {
  return compareEntries(entry, checkpoint) <= 0 && !open.some((other) => other.entry === entry);
}

/** Finished entries whose dead letters this commit does not carry yet stay open in what it records. */
export function withWaiting(open: readonly OpenEntry[], waiting: readonly DeadLetter[]): readonly OpenEntry[] {
  if (waiting.length === 0) return open;
  const still = waiting.map(({ entry }) => ({ entry, attempts: 0, firstFailureMs: 0 }));
  return [...open, ...still].sort((a, b) => compareEntries(a.entry, b.entry));
}

/** As the lease's hash keeps them: `<entry>` or `<entry>:<attempts>:<first failure ms>`, separated by blanks. */
export function formatOpen(open: readonly OpenEntry[]): string {
  return open
    .map(({ entry, attempts, firstFailureMs }) => (attempts === 0 ? entry : `${entry}:${attempts}:${firstFailureMs}`))
    .join(" ");
}

export function parseOpen(text: string): OpenEntry[] {
  if (text === "") return [];
  return text.split(" ").map((part) => {
    const [entry = "", attempts = "0", firstFailureMs = "0"] = part.split(":");
    return { entry, attempts: Number(attempts), firstFailureMs: Number(firstFailureMs) };
  });
}
