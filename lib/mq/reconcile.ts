/**
 * The reconciler: what makes a lost timer cost seconds and nothing else. Partition by partition, by Redis TIME and in bounded steps, it
 *
 *   fires what is overdue · adds timers that are missing, shortly before their time · forgets records that ended long ago
 */

import { defineScript } from "../redis/index.ts";
import delaySweepLua from "../redis/lua/mq-delay-sweep.lua" with { type: "text" };
import type { QueueContext } from "./consumer.ts";
import { parseDelayed, shelfKeys } from "./delayed-record.ts";
import type { Firing } from "./firing.ts";
import type { Timer } from "./timers.ts";

/** What is late by less is in the hands of its timer. */
const OVERDUE_MS = 500;
/** Some runs of the reconciler: a timer that is lost in between is put back in time. */
const AHEAD_MS = 15_000;
/** Records per step. */
const STEP = 500;
/** Steps per partition and run: 10 000 records; the runs that follow do the rest. */
const STEPS_MAX = 20;
/** For a true answer to who cancels late (design.md §6), and no more than 15 MB per partition. */
const ENDED_KEPT_MS = 24 * 3_600_000;
const ENDED_MAX = 100_000;

const sweepScript = defineScript({
  name: "mqDelaySweep",
  lua: delaySweepLua,
  keys: ["records", "ended"],
  args: ["keptMs", "keptMax", "limit"],
  decode: (reply) => reply as number,
});

export interface ReconcilerParts {
  readonly context: QueueContext;
  readonly firing: Firing;
  /** Adds the timers that are not there. */
  readonly restore: (timers: readonly Timer[]) => Promise<void>;
  /** Now, by Redis TIME. */
  readonly now: () => number;
}

/** One run over all partitions. Throws Redis errors; the next run begins anew. */
export async function reconcile(parts: ReconcilerParts): Promise<void> {
  for (let partition = 0; partition < parts.context.keys.partitions; partition++) {
    await fireDue(parts, partition, parts.now() - OVERDUE_MS);
    await restoreTimers(parts, partition);
    await sweep(parts, partition);
  }
}

/** Fires what is due in a partition until then (ms by Redis TIME), in order and in bounded steps. Throws Redis errors. */
export async function fireDue(
  { context, firing }: Pick<ReconcilerParts, "context" | "firing">,
  partition: number,
  until: number,
): Promise<void> {
  const { due } = shelfKeys(context.keys, partition);
  // What cannot be fired stays where it is, in front: it is stepped over.
  let stuck = 0;
  for (let step = 0; step < STEPS_MAX; step++) {
    const ids = await context.redis.commands.zrangebyscore(due, "-inf", until, "LIMIT", stuck, STEP);
    const outcomes = await Promise.all(ids.map((id) => firing.fire(id)));
    for (const [i, outcome] of outcomes.entries()) {
      if (outcome.kind !== "failed") continue;
      stuck += 1;
      context.log.error({ record: ids[i], reason: outcome.error }, "a delayed message cannot be sent; it stays");
    }
    if (ids.length < STEP) return;
  }
}

async function restoreTimers({ context, restore, now }: ReconcilerParts, partition: number): Promise<void> {
  const { records, due } = shelfKeys(context.keys, partition);
  const { commands } = context.redis;
  const [from, until] = [now() - OVERDUE_MS, now() + AHEAD_MS];
  for (let step = 0; step < STEPS_MAX; step++) {
    const ids = await commands.zrangebyscore(due, from, until, "LIMIT", step * STEP, STEP);
    if (ids.length === 0) return;
    const texts = await commands.hmget(records, ...ids);
    const timers = texts.flatMap((text, i) => {
      const record = text === null ? undefined : parseDelayed(ids[i]!, text);
      return record ? [{ record: record.id, version: record.version, due: record.deliverAt }] : [];
    });
    await restore(timers);
    if (ids.length < STEP) return;
  }
}

async function sweep({ context: { keys, redis } }: ReconcilerParts, partition: number): Promise<void> {
  const { records, ended } = shelfKeys(keys, partition);
  for (let step = 0; step < STEPS_MAX; step++) {
    const swept = await sweepScript(redis.commands, {
      ...{ records, ended, keptMs: ENDED_KEPT_MS, keptMax: ENDED_MAX, limit: STEP },
    });
    if (swept < STEP) return;
  }
}
