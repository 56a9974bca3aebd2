/**
 * Group commit: what several callers hand in while one commit runs goes with the next one, and commits are paced. A store
 * that pays per commit (an fsync, a dirtied page per index leaf) then pays for hundreds of items at once, and load makes the
 * batches larger by itself. An idle committer commits at once, and one whose commits are cheap waits less.
 *
 *   add ─┐
 *   add ─┼─► waiting ──(some ms since the last commit began, or countMax items)──► commit ──► all of them resolve
 *   add ─┘
 *
 * It holds what its callers hand in and wait for, so their own window bounds it.
 */

import type { Clock } from "./clock.ts";

/** Commits take at most this share of the time, until the pauses between them reach their limit. */
const BUSY_SHARE = 0.1;

export interface GroupCommitOptions<T> {
  readonly clock: Clock;
  /** The longest that items wait because the last commit began a moment ago. */
  readonly everyMs: number;
  /** So many waiting items are committed without regard to `everyMs`; more of them make another commit. */
  readonly countMax: number;
  /** Stores all items or none, in this order. */
  commit(items: readonly T[]): Promise<void>;
}

export interface GroupCommit<T> {
  /** Resolves when the items are committed; rejects with the error of their commit. Items of one call stay together. */
  add(items: readonly T[]): Promise<void>;
}

interface Waiting<T> {
  readonly items: readonly T[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export function createGroupCommit<T>({ clock, everyMs, countMax, commit }: GroupCommitOptions<T>): GroupCommit<T> {
  const waiting: Waiting<T>[] = [];
  let waitingCount = 0;
  let isRunning = false;
  let pause: AbortController | undefined;
  let nextMs = Number.NEGATIVE_INFINITY;

  async function run(): Promise<void> {
    isRunning = true;
    while (waiting.length > 0) {
      await pauseBeforeCommit();
      const taken = take();
      const begunMs = performance.now();
      try {
        await commit(taken.length === 1 ? taken[0]!.items : taken.flatMap(({ items }) => items));
        for (const { resolve } of taken) resolve();
      } catch (error) {
        for (const { reject } of taken) reject(error);
      }
      nextMs = begunMs + Math.min(everyMs, (performance.now() - begunMs) / BUSY_SHARE);
    }
    isRunning = false;
  }

  /** The first ones, up to countMax items; at least one call's. */
  function take(): Waiting<T>[] {
    let calls = 0;
    let count = 0;
    do {
      count += waiting[calls]!.items.length;
      calls += 1;
    } while (calls < waiting.length && count + waiting[calls]!.items.length <= countMax);
    waitingCount -= count;
    return waiting.splice(0, calls);
  }

  async function pauseBeforeCommit(): Promise<void> {
    // At least one turn of the event loop: whoever was handed work in this turn gets in.
    await new Promise((resolve) => setImmediate(resolve));
    const waitMs = nextMs - performance.now();
    if (waitMs <= 0 || waitingCount >= countMax) return;
    pause = new AbortController();
    await clock.sleep(waitMs, pause.signal);
    pause = undefined;
  }

  return {
    add(items) {
      if (items.length === 0) return Promise.resolve();
      return new Promise((resolve, reject) => {
        waiting.push({ items, resolve, reject });
        waitingCount += items.length;
        if (!isRunning) void run();
        else if (waitingCount >= countMax) pause?.abort();
      });
    },
  };
}
