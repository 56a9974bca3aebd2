/**
 * The periodic work of an installation, each done by one scheduler of all every time (BullMQ job schedulers). That the timers look
 * after themselves, the reconciler, is theirs (lib/mq/timekeeper.ts).
 */

import type { AnyTopic, Chore, Queue } from "../../lib/mq/index.ts";

/** Often enough that a topic at full speed, 16 000/s, is never a sixth longer than it may be. */
const TRIM_MS = 10_000;
/** As often as metrics are collected. */
const GAUGES_MS = 15_000;
/** What a half message may be late in its end: its budget is hours. */
const HALVES_MS = 5_000;
/** A redrive goes on at its own rate, counted per second. */
const REDRIVES_MS = 1_000;

export function choresOf(queue: Queue): Chore[] {
  return [
    { name: "trim", everyMs: TRIM_MS, run: () => forEachTopic(queue, "could not be trimmed", queue.trim) },
    // describe sets the gauges: lag, oldest pending, what stands aside.
    { name: "gauges", everyMs: GAUGES_MS, run: () => forEachTopic(queue, "could not be measured", queue.describe) },
    { name: "halves", everyMs: HALVES_MS, run: () => queue.transactions.expire() },
    { name: "redrives", everyMs: REDRIVES_MS, run: () => queue.deadLetters.runRedrives() },
  ];
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
