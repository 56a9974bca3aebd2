/** A clock that moves only when told: `advance(ms)` wakes the sleepers that are due, in order. */

import type { Clock } from "../../lib/clock.ts";

export interface FakeClock extends Clock {
  /** Who works when the time comes hears nothing of an advance: wait until he sleeps again. */
  advance(ms: number): Promise<void>;
  readonly sleepers: number;
}

export function createFakeClock(startMs = 1_750_000_000_000): FakeClock {
  let nowMs = startMs;
  const sleepers = new Set<{ dueMs: number; wake: () => void }>();
  return {
    now: () => nowMs,
    get sleepers() {
      return sleepers.size;
    },
    sleep(ms, signal) {
      if (signal?.aborted) return Promise.resolve();
      return new Promise((resolve) => {
        const sleeper = {
          dueMs: nowMs + ms,
          wake: () => {
            sleepers.delete(sleeper);
            resolve();
          },
        };
        sleepers.add(sleeper);
        signal?.addEventListener("abort", sleeper.wake, { once: true });
      });
    },
    async advance(ms) {
      nowMs += ms;
      const due = [...sleepers].filter((sleeper) => sleeper.dueMs <= nowMs).sort((a, b) => a.dueMs - b.dueMs);
      for (const sleeper of due) sleeper.wake();
      await new Promise((resolve) => setImmediate(resolve));
    },
  };
}
