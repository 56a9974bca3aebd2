/** Where a group begins that never ran before, and that what it counts (lag, losses) is exact from there on. */

import { expect, test } from "bun:test";
import type { StartPoint } from "../../lib/mq/index.ts";
import { eventually } from "../support/eventually.ts";
import { openTestQueue, range, type TestQueue } from "../support/queue.ts";

/** More than two counts of 500 entries lie behind each place. */
const COUNT = 1_600;

/** The ids of the entries of the one partition. */
async function entriesOf(t: TestQueue): Promise<string[]> {
  const entries = await t.store.redis.commands.xrange(t.store.keys.topic("t", 0), "-", "+");
  return entries.map(([entry]) => entry);
}

async function consumeFrom(t: TestQueue, group: string, start: StartPoint) {
  const seen: number[] = [];
  const service = await t.run(
    t.queue.consume(t.topic, { group, start, mode: "ordered", handle: ({ data }) => seen.push(data.n) }),
  );
  return { seen, service };
}

const lagOf = async (t: TestQueue, group: string) =>
  (await t.queue.describe(t.topic)).groups.find((each) => each.group === group)!.lag;

test("an ordered group begins with an entry, and with the first at a time; lag is exact and nothing counts as lost", async () => {
  await using t = await openTestQueue("mq-start", { partitions: 1 });
  await t.publish("k", 1, 300);
  await Bun.sleep(3);
  await t.publish("k", 301, COUNT);
  const entries = await entriesOf(t);
  const time = Number(entries[300]!.split("-")[0]);
  const starts: [string, StartPoint, number][] = [
    ["entry", { id: entries[199]! }, 200],
    ["time", { time }, 301],
    ["long-ago", { time: 1 }, 1],
    ["to-come", { time: Date.now() + 3_600_000 }, COUNT + 1],
  ];
  for (const [group, start, first] of starts) {
    const { seen, service } = await consumeFrom(t, group, start);
    await eventually(() => expect(seen).toEqual(range(first, COUNT)));
    await service.stop(AbortSignal.timeout(5_000));
    expect(await lagOf(t, group)).toBe(0);
  }
  await t.publish("k", COUNT + 1, COUNT + 10);
  for (const [group] of starts) expect(await lagOf(t, group)).toBe(10);
  for (const [group, start] of starts) {
    const { seen } = await consumeFrom(t, group, start);
    await eventually(() => expect(seen).toEqual(range(COUNT + 1, COUNT + 10)));
  }
  expect((await t.store.metrics.lostByTrim.get()).values).toEqual([]);
});

test("what is trimmed unread behind such a start is counted to the entry", async () => {
  await using t = await openTestQueue("mq-start", { partitions: 1 });
  await t.publish("k", 1, COUNT);
  const entries = await entriesOf(t);
  const first = await consumeFrom(t, "g", { id: entries[1_499]! });
  await eventually(() => expect(first.seen).toEqual(range(1_500, COUNT)));
  await first.service.stop(AbortSignal.timeout(5_000));
  await t.publish("k", COUNT + 1, COUNT + 20);
  await t.store.redis.commands.xtrim(t.store.keys.topic("t", 0), "MAXLEN", 5);
  const second = await consumeFrom(t, "g", "first");
  await eventually(() => expect(second.seen).toEqual(range(COUNT + 16, COUNT + 20)));
  await eventually(async () => expect((await t.store.metrics.lostByTrim.get()).values).toMatchObject([{ value: 15 }]));
});
