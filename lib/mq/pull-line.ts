/**
 * The receives of one group that wait in this process, in line: the first one looks whenever there may be something, and the
 * others wait for its place, so that a hundred waiting clients cost Redis no more than one. It looks
 *
 *   when new entries came, or something was given back here     at once, and only where
 *   when something falls due                                    then
 *   and otherwise                                               once a second: what other processes did is not told
 */

import { systemClock } from "../clock.ts";

/** As late as in a process of the group (concurrent.ts). */
const LOOK_MS = 1_000;
/** Due by our clock, and not by that of Redis, which decides: not again sooner. */
const DUE_WAIT_MIN_MS = 20;

/** Partitions worth a look; undefined: all. */
export type Where = ReadonlySet<number> | undefined;

export interface Look<T> {
  /** undefined: nothing was there. */
  readonly found: T | undefined;
  /** When something will be due, Unix ms. */
  readonly nextDueMs: number | undefined;
}

export class PullLine {
  readonly #now: () => number;
  readonly #waiting: (() => void)[] = [];
  #isTaken = false;
  #touched = new Set<number>();
  #wake: (() => void) | undefined;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** There may be something to hand out in these partitions. */
  nudge(partitions: readonly number[]): void {
    for (const partition of partitions) this.#touched.add(partition);
    this.#wake?.();
  }

  /** Looks, when its turn has come, until it finds something; undefined when `signal` aborted before. Throws what `look` throws. */
  async wait<T>(look: (where: Where) => Promise<Look<T>>, signal: AbortSignal): Promise<T | undefined> {
    if (!(await this.#takeTurn(signal))) return undefined;
    try {
      let where: Where;
      let dueMs = Number.POSITIVE_INFINITY;
      while (!signal.aborted) {
        if (where === undefined) {
          this.#touched.clear();
          dueMs = Number.POSITIVE_INFINITY;
        }
        const { found, nextDueMs } = await look(where);
        if (found !== undefined) return found;
        dueMs = Math.min(dueMs, nextDueMs ?? dueMs);
        where = await this.#news(dueMs, signal);
      }
      return undefined;
    } finally {
      this.#giveTurn();
    }
  }

  /** Resolves to whether it is this one's turn; no when `signal` aborts before. */
  #takeTurn(signal: AbortSignal): Promise<boolean> {
    if (signal.aborted) return Promise.resolve(false);
    if (!this.#isTaken) {
      this.#isTaken = true;
      return Promise.resolve(true);
    }
    return new Promise((resolve) => {
      const isTurn = () => {
        signal.removeEventListener("abort", leave);
        resolve(true);
      };
      const leave = () => {
        this.#waiting.splice(this.#waiting.indexOf(isTurn), 1);
        resolve(false);
      };
      signal.addEventListener("abort", leave, { once: true });
      this.#waiting.push(isTurn);
    });
  }

  #giveTurn(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#isTaken = false;
  }

  /** Waits for news; resolves to where. */
  async #news(dueMs: number, signal: AbortSignal): Promise<Where> {
    if (this.#touched.size === 0 && !signal.aborted) {
      const dueIn = Math.max(DUE_WAIT_MIN_MS, dueMs - this.#now());
      const waiting = new AbortController();
      const end = () => waiting.abort();
      this.#wake = end;
      signal.addEventListener("abort", end, { once: true });
      // Leases and due times run by Redis TIME: real time, whatever clock the rest is given.
      await systemClock.sleep(Math.min(LOOK_MS, dueIn), waiting.signal);
      signal.removeEventListener("abort", end);
      this.#wake = undefined;
    }
    if (this.#touched.size === 0) return undefined;
    const where = this.#touched;
    this.#touched = new Set();
    return where;
  }
}
