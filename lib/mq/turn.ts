/**
 * One suspect at a time in a process, over all its partitions and groups. What crashes a process crashes all that it has in hand: were
 * two messages known to be alone in hand, the innocent one would be blamed with the other, and buried with it.
 */

import { systemClock } from "../clock.ts";
import { whenAborted } from "../service.ts";

/** A handler that hangs must not hold up the suspects of other groups for ever; then one may be blamed for another. */
const WAIT_MS_MAX = 10_000;

let last: Promise<unknown> = Promise.resolve();

/**
 * Runs `work` when those before it are through, or their `lease` has aborted. What it does must include that its end is known in Redis.
 */
export function inTurn<T>(lease: AbortSignal, work: () => Promise<T>): Promise<T> {
  const before = last;
  const run = async () => {
    const patience = new AbortController();
    await Promise.race([before, systemClock.sleep(WAIT_MS_MAX, patience.signal)]);
    patience.abort();
    return work();
  };
  const result = run();
  last = Promise.race([result.catch(() => undefined), whenAborted(lease)]);
  return result;
}
