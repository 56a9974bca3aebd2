/**
 * One look over the partitions of a group for a receive: asks some at a time, so that together they cannot hand out more than is
 * wanted, and goes on with those that have more.
 */

import type { Log } from "../observability/index.ts";
import type { Handed, Outlet, Taken } from "./pull-outlet.ts";

/** A reply stays below about this size. */
const BYTES_MAX = 4 * 1024 * 1024;
/** A look ends even when every message of a long backlog is passed over; the next one goes on. */
const STEPS_MAX = 100;

export interface Round<D> {
  readonly handed: readonly Handed<D>[];
  /** Where there may be more now. */
  readonly more: readonly number[];
  readonly nextDueMs: number | undefined;
}

/**
 * Hands out at most `max` deliveries of these partitions. Deliveries that a partition has given are never lost to the fault of
 * another one; throws it only when there are none.
 */
export async function runRound<D>(
  outlet: Outlet<D>,
  partitions: readonly number[],
  max: number,
  log: Log,
): Promise<Round<D>> {
  const open = [...partitions];
  const handed: Handed<D>[] = [];
  let bytes = 0;
  let nextDueMs: number | undefined;
  let fault: unknown;
  for (let step = 0; step < STEPS_MAX && open.length > 0 && handed.length < max && bytes < BYTES_MAX; step++) {
    const asked = open.splice(0, max - handed.length);
    const share = Math.max(1, Math.floor((max - handed.length) / asked.length));
    const replies = await Promise.allSettled(
      asked.map((partition) => outlet.take(partition, share, Math.ceil((BYTES_MAX - bytes) / asked.length))),
    );
    for (const [i, reply] of replies.entries()) {
      if (reply.status === "rejected") {
        fault = reply.reason;
        log.debug({ partition: asked[i], error: reply.reason }, "a partition could not be pulled from");
        continue;
      }
      const taken: Taken<D> = reply.value;
      handed.push(...taken.handed);
      for (const { delivery } of taken.handed) bytes += delivery.raw.length;
      if (taken.isMore) open.push(asked[i]!);
      nextDueMs = earlier(nextDueMs, taken.nextDueMs);
    }
  }
  if (handed.length === 0 && fault !== undefined) throw fault;
  return { handed, more: open, nextDueMs };
}

function earlier(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? (a ?? b) : Math.min(a, b);
}
