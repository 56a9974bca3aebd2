/**
 * The verdict on a campaign on delayed messages, apart from any I/O: what the publishers were told on one side, what lies in the topic
 * on the other. The ms of an entry is Redis TIME at its append, and so is what "early" is judged by.
 */

import type { DelayedLine } from "./delayed-plan.ts";

/** Every count is 0 in health. */
export interface DelayedVerdict {
  /** In the topic before it was due. */
  early: number;
  /** Kept, not cancelled, and not in the topic. */
  lost: number;
  /** In the topic more than once. */
  doubled: number;
  /** Cancelled with `ok`, and in the topic. */
  undead: number;
  /** In the topic, and nobody asked for it. */
  unexpected: number;
  /** Told not to be found, though it was kept. */
  denied: number;
  /** A publisher never heard what became of it. */
  unsettled: number;
}

export interface DelayedFigures {
  readonly kept: number;
  readonly sent: number;
  readonly cancelled: number;
  readonly moved: number;
  /** ms between due time and append, of those sent. */
  readonly lateMs: { readonly p50: number; readonly p99: number; readonly max: number };
}

export interface DelayedJudgement {
  readonly verdict: DelayedVerdict;
  readonly figures: DelayedFigures;
  /** Some of what was found, in words. */
  readonly examples: readonly string[];
}

export interface FoundEntry {
  readonly n: number;
  /** When Redis appended it. */
  readonly ms: number;
}

interface Story {
  /** The earliest time at which it may come. */
  due: number;
  isKept: boolean;
  isCancelled: boolean;
  isMoved: boolean;
  /** A move that was asked for and has no answer yet. */
  moving: number | undefined;
  isDenied: boolean;
}

const EXAMPLES_MAX = 10;

export function judgeDelayed(evidence: readonly DelayedLine[], entries: readonly FoundEntry[]): DelayedJudgement {
  const verdict = { early: 0, lost: 0, doubled: 0, undead: 0, unexpected: 0, denied: 0, unsettled: 0 };
  const examples: string[] = [];
  const wrong = (kind: keyof DelayedVerdict, what: string) => {
    verdict[kind] += 1;
    if (examples.length < EXAMPLES_MAX) examples.push(`${kind}: ${what}`);
  };
  const stories = storiesOf(evidence);
  const times = new Map<number, number[]>();
  for (const { n, ms } of entries) times.set(n, [...(times.get(n) ?? []), ms]);
  const late: number[] = [];
  for (const [n, story] of stories) {
    const found = times.get(n) ?? [];
    if (!story.isKept || story.moving !== undefined) wrong("unsettled", `${n}`);
    if (story.isDenied) wrong("denied", `${n}`);
    if (found.length > 1) wrong("doubled", `${n} at ${found.join(" and ")}`);
    if (story.isCancelled && found.length > 0) wrong("undead", `${n} at ${found[0]}`);
    if (story.isKept && !story.isCancelled && found.length === 0) wrong("lost", `${n}, due at ${story.due}`);
    for (const ms of found) {
      if (ms < story.due) wrong("early", `${n} at ${ms}, ${story.due - ms} ms before its time`);
      else late.push(ms - story.due);
    }
  }
  for (const n of times.keys()) if (!stories.has(n)) wrong("unexpected", `${n}`);
  const all = [...stories.values()];
  late.sort((a, b) => a - b);
  const at = (share: number) => late[Math.min(late.length - 1, Math.floor(late.length * share))] ?? 0;
  const figures: DelayedFigures = {
    kept: all.filter(({ isKept }) => isKept).length,
    sent: times.size,
    cancelled: all.filter(({ isCancelled }) => isCancelled).length,
    moved: all.filter(({ isMoved }) => isMoved).length,
    lateMs: { p50: at(0.5), p99: at(0.99), max: at(1) },
  };
  return { verdict, figures, examples };
}

function storiesOf(evidence: readonly DelayedLine[]): ReadonlyMap<number, Story> {
  const stories = new Map<number, Story>();
  for (const line of evidence) {
    if (line.e === "asked") {
      const fresh = { isKept: false, isCancelled: false, isMoved: false, moving: undefined, isDenied: false };
      stories.set(line.n, { due: line.due, ...fresh });
      continue;
    }
    const story = stories.get(line.n)!;
    switch (line.e) {
      case "kept":
        story.isKept = true;
        break;
      case "cancelled":
        story.isCancelled = line.result === "ok";
        story.isDenied = line.result === "not_found";
        break;
      case "moving":
        story.moving = line.to;
        break;
      case "moved":
        story.isMoved = line.result === "ok";
        story.isDenied = line.result === "not_found";
        // Fired already: perhaps at its new time, by a first try whose reply was lost.
        story.due = story.isMoved ? story.moving! : Math.min(story.due, story.moving!);
        story.moving = undefined;
        break;
    }
  }
  return stories;
}
