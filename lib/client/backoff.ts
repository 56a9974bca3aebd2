/** How long to wait before the next attempt, so that many clients that were told the same do not come back at once. */

/** What is added at random to a wait that the server asks for. */
const ASKED_SPREAD = 0.25;

/** Doubles from `firstMs` to `maxMs`, half of it at random. */
export function backoffMs(attempt: number, firstMs: number, maxMs: number): number {
  const wait = Math.min(maxMs, firstMs * 2 ** Math.min(attempt, 30));
  return wait / 2 + (wait / 2) * Math.random();
}

/** A wait that the server asks for: never shorter, up to a quarter longer. */
export function askedMs(waitMs: number): number {
  return waitMs * (1 + ASKED_SPREAD * Math.random());
}
