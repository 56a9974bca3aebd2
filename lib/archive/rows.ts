/** What the stores have in common: the row of a timeline, how entries move it, and how parts join their entries. */

import type { ArchivedEntry } from "./contract.ts";
import type { NewEntry, TimelineState } from "./store.ts";

export interface TimelineRow extends TimelineState {
  readonly number: number;
  lastSeq: number;
  newestSeq: number;
  /** When its newest entry was committed, ms. */
  lastAt: number;
}

export interface PartRow {
  readonly seq: number;
  readonly part: string;
  readonly text: string;
}

/** Counts an entry that the archive holds now. What lies behind a hole that it fills is the store's to find. */
export function advance(timeline: TimelineRow, { seq, committedAt }: Pick<NewEntry, "seq" | "committedAt">): void {
  if (seq === timeline.lastSeq + 1) timeline.lastSeq = seq;
  if (seq > timeline.newestSeq) timeline.newestSeq = seq;
  if (committedAt > timeline.lastAt) timeline.lastAt = committedAt;
}

export function toState({ conversation, epoch, lastSeq, newestSeq, announcedSeq }: TimelineRow): TimelineState {
  return { conversation, epoch, lastSeq, newestSeq, announcedSeq };
}

/** The page with the parts that were found for its entries. */
export function joinParts(page: readonly ArchivedEntry[], found: readonly PartRow[]): ArchivedEntry[] {
  const bySeq = new Map<number, Record<string, string>>();
  for (const { seq, part, text } of found) bySeq.set(seq, { ...bySeq.get(seq), [part]: text });
  return page.map((entry) => {
    const own = bySeq.get(entry.seq);
    return own ? { ...entry, parts: own } : entry;
  });
}
