/** What the tests of consume transactions share: the forms of group and handler, and what became of their messages. */

import { expect } from "bun:test";
import { eventually } from "./eventually.ts";
import { type Numbered, range, type TestQueue } from "./queue.ts";

export const FORMS = [
  ["ordered", "single"],
  ["ordered", "batch"],
  ["concurrent", "single"],
  ["concurrent", "batch"],
] as const;
export type Form = (typeof FORMS)[number];

/** Numbers of a topic's messages, over all partitions. */
export async function numbersIn(t: TestQueue, topic: string): Promise<number[]> {
  const { keys, redis } = t.store;
  const streams = range(0, keys.partitions - 1).map((partition) => keys.topic(topic, partition));
  const entries = await Promise.all(streams.map((stream) => redis.commands.xrange(stream, "-", "+")));
  return entries
    .flat()
    .map(([, fields]) => (JSON.parse(fields[1]!) as Numbered).n)
    .sort((a, b) => a - b);
}

/** The group `g` has nothing left to do. */
export async function caughtUp(t: TestQueue): Promise<void> {
  await eventually(async () => {
    const { groups } = await t.queue.describe(t.topic);
    expect(groups).toMatchObject([{ group: "g", lag: 0, open: 0 }]);
  });
}
