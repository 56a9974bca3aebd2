/**
 * Retention: what was committed more than so many days ago is kept no longer. Hourly, over all timelines: logic is told first, so
 * that it leaves the hot window as well, then it is removed here. Who dies in between finds the same again. Of a conversation's
 * last message there is a copy in the hot window as long as it is the last.
 */

import type { ArchiveStore } from "../../lib/archive/index.ts";
import type { Clock } from "../../lib/clock.ts";
import { imCommands } from "../../lib/im/index.ts";
import type { Queue } from "../../lib/mq/index.ts";
import type { Log } from "../../lib/observability/index.ts";
import { createRepeating, type Service } from "../../lib/service.ts";

const DAY_MS = 24 * 3_600_000;
const SWEEP_EVERY_MS = 3_600_000;
/** Timelines looked at before other work gets its turn: about 5 ms. */
const SWEEP_PAGE = 500;

interface ExpiryParts {
  readonly store: ArchiveStore;
  readonly queue: Queue;
  readonly clock: Clock;
  readonly log: Log;
  readonly days: number;
}

export function createExpiry({ store, queue, clock, log, days }: ExpiryParts): Service {
  async function sweep(signal: AbortSignal): Promise<void> {
    const beforeMs = clock.now() - days * DAY_MS;
    let from = 0;
    do {
      const { timelines, next } = await store.expired({ beforeMs, from, count: SWEEP_PAGE });
      await queue.publishMany(
        imCommands,
        timelines.map((timeline) => ({
          type: "im.command.archived",
          key: timeline.conversation,
          data: { type: "archived" as const, ...timeline, expired: true as const },
        })),
      );
      await store.remove(timelines);
      if (timelines.length > 0) log.info({ timelines: timelines.length }, "old entries were removed from the archive");
      from = next;
    } while (from > 0 && !signal.aborted);
  }

  const report = (error: unknown) =>
    log.warn({ error }, "old entries could not be removed, the next sweep tries again");
  return createRepeating("archive expiry", { clock, everyMs: SWEEP_EVERY_MS, act: sweep, report });
}
