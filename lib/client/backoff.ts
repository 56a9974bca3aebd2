/** How long to wait before the next attempt. */

/** A wait that doubles from `firstMs` to `maxMs`, and a random half of it, so that many clients do not come back at once. */
export function backoffMs(attempt: number, firstMs: number, maxMs: number): number {
  const wait = Math.min(maxMs, firstMs * 2 ** Math.min(attempt, 30));
  return wait / 2 + (wait / 2) * Math.random();
}
