/**
 * Time is passed in, so that tests move it. Leases and due times are judged by Redis TIME inside scripts; this clock is for
 * timestamps, back-off and periodic work of one process.
 */

export interface Clock {
  /** Unix time in milliseconds. */
  now(): number;
  /** Resolves after `ms`, or at once when `signal` aborts; never rejects. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  sleep(ms, signal) {
    if (signal?.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      signal?.addEventListener("abort", done);
    });
  },
};

export interface Backoff {
  readonly firstMs: number;
  readonly maxMs: number;
  /** Share of the wait that is random, 0..1. */
  readonly jitter: number;
}

/** The wait before attempt `attempt` (1, 2, …): doubled each time up to the maximum, with jitter around it. */
export function backoffMs(attempt: number, { firstMs, maxMs, jitter }: Backoff): number {
  const wait = Math.min(maxMs, firstMs * 2 ** Math.min(attempt - 1, 30));
  return Math.round(wait * (1 - jitter + 2 * jitter * Math.random()));
}
