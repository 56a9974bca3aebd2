/**
 * The periodic work of an installation, each done by one scheduler of all every time (BullMQ job schedulers). That the timers look
 * after themselves, the reconciler, is theirs (lib/mq/timekeeper.ts).
 */

import type { AnyTopic, Chore, Queue } from "../../lib/mq/index.ts";
import { createGroupGauges } from "../../lib/observability/index.ts";
import type { MetricSnapshots } from "../../lib/redis/index.ts";

/** Often enough that a topic at full speed, 16 000/s, is never a sixth longer than it may be. */
const TRIM_MS = 10_000;
/** As often as metrics are collected. */
const GAUGES_MS = 15_000;
/** What a half message may be late in its end: its budget is hours. */
const HALVES_MS = 5_000;
/** A redrive goes on at its own rate, counted per second. */
const REDRIVES_MS = 1_000;

/** The snapshot that holds where groups stand, whichever scheduler has measured it. */
const GAUGES = "groups";

export function choresOf(queue: Queue, snapshots: MetricSnapshots): Chore[] {
  return [
    { name: "trim", everyMs: TRIM_MS, run: () => forEachTopic(queue, "could not be trimmed", queue.trim) },
    { name: "gauges", everyMs: GAUGES_MS, run: () => measure(queue, snapshots) },
    { name: "halves", everyMs: HALVES_MS, run: () => queue.transactions.expire() },
    { name: "redrives", everyMs: REDRIVES_MS, run: () => queue.deadLetters.runRedrives() },
  ];
}

/** Lag, oldest pending, what stands aside: of all groups that there are now. */
async function measure(queue: Queue, snapshots: MetricSnapshots): Promise<void> {
  const { registry, lag, oldestPendingSeconds, parkedKeys, sideMessages } = createGroupGauges();
  await forEachTopic(queue, "could not be measured", async (topic) => {
    const { groups } = await queue.describe(topic);
    for (const group of groups) {
      const labels = { topic: topic.name, group: group.group };
      lag.set(labels, group.lag);
      oldestPendingSeconds.set(labels, group.oldestMs / 1_000);
      parkedKeys.set(labels, group.parkedKeys);
      sideMessages.set(labels, group.sideMessages);
    }
  });
  await snapshots.write(GAUGES, registry);
}

/** One after the other: none of it is urgent. A topic that fails keeps the others from nothing. */
async function forEachTopic(queue: Queue, failure: string, run: (topic: AnyTopic) => Promise<unknown>): Promise<void> {
  for (const { topic: name } of await queue.catalog.topics()) {
    try {
      await run(await queue.catalog.topicOf(name));
    } catch (error) {
      queue.report(error, `topic ${name} ${failure}; the next time tries again`);
    }
  }
}
