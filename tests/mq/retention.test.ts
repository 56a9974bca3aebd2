import { expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { Bury, defineTopic } from "../../lib/mq/index.ts";
import { eventually } from "../support/eventually.ts";
import { Numbered, openTestQueue, type TestQueue } from "../support/queue.ts";

const soft = () => AbortSignal.timeout(5_000);
/** Redis trims whole nodes of a stream: at most this many more entries stay than must. */
const NODE = 100;

async function consumeAll(
  t: TestQueue,
  group: string,
  mode: "ordered" | "concurrent",
  upTo = Number.POSITIVE_INFINITY,
) {
  let seen = 0;
  const service = await t.run(
    t.queue.consume(t.topic, {
      // Long, and below the minute after which a key that fails leaves the window for the side queue.
      ...{ group, mode, backoff: [30_000] },
      handle({ data }) {
        if (data.n > upTo) throw new Error("not yet");
        seen += 1;
      },
    }),
  );
  return { service, count: () => seen };
}

test("entries younger than the retention stay, finished or not", async () => {
  await using t = await openTestQueue("mq-retention", { partitions: 1 });
  await t.publish("k", 1, 1_000);
  const all = await consumeAll(t, "g", "ordered");
  await eventually(() => expect(all.count()).toBe(1_000));
  await all.service.stop(soft());
  expect(await t.queue.trim(t.topic)).toBe(0);
  expect((await t.queue.describe(t.topic)).length).toBe(1_000);
});

test("older entries go when every group has finished them, and not before", async () => {
  const topic = defineTopic("t", { schema: Numbered, retentionMs: 1 });
  for (const mode of ["ordered", "concurrent"] as const) {
    await using t = await openTestQueue("mq-retention", { partitions: 1, topic });
    const other = await consumeAll(t, "other", "ordered");
    const slow = await consumeAll(t, "slow", mode, 500);
    await t.publish("k", 1, 1_000);
    await eventually(() => expect([other.count(), slow.count()]).toEqual([1_000, 500]));
    await Promise.all([other.service.stop(soft()), slow.service.stop(soft())]);
    const trimmed = await t.queue.trim(topic);
    expect(trimmed).toBeGreaterThan(500 - NODE);
    expect(trimmed).toBeLessThanOrEqual(500);
    const { groups } = await t.queue.describe(topic);
    expect(groups.map(({ group, lag }) => [group, lag])).toEqual([
      ["other", 0],
      ["slow", 500],
    ]);
    const rest = await consumeAll(t, "slow", mode);
    // What failed waits for its retry under the concurrent ladder; the rest of it was never handed out.
    await eventually(() => expect(rest.count()).toBeGreaterThanOrEqual(mode === "ordered" ? 500 : 0));
    expect((await t.store.metrics.lostByTrim.get()).values).toEqual([]);
  }
});

test("beyond lengthMax finished entries go before their time, unread ones never", async () => {
  const topic = defineTopic("t", { schema: Numbered, lengthMax: 200 });
  await using t = await openTestQueue("mq-retention", { partitions: 1, topic });
  await t.publish("k", 1, 1_000);
  const half = await consumeAll(t, "g", "ordered", 600);
  await eventually(() => expect(half.count()).toBe(600));
  await half.service.stop(soft());
  await t.queue.trim(topic);
  const { length } = await t.queue.describe(topic);
  expect(length).toBeGreaterThanOrEqual(400);
  expect(length).toBeLessThan(400 + NODE);
  const rest = await consumeAll(t, "g", "ordered");
  await eventually(() => expect(rest.count()).toBe(400));
  await rest.service.stop(soft());
  await t.queue.trim(topic);
  expect((await t.queue.describe(topic)).length).toBeLessThan(200 + NODE);
  expect((await t.queue.describe(topic)).length).toBeGreaterThanOrEqual(200);
});

test("describe shows length, lag, what is open, its age, owners and dead letters", async () => {
  await using t = await openTestQueue("mq-retention", { partitions: 2 });
  expect(await t.queue.describe(t.topic)).toEqual({ topic: "t", partitions: 2, length: 0, groups: [] });
  await t.publish("k", 1, 10);
  const stuck = await consumeAll(t, "g", "ordered", 4);
  await eventually(async () => {
    const { length, groups } = await t.queue.describe(t.topic);
    expect(length).toBe(10);
    expect(groups).toMatchObject([
      { group: "g", mode: "ordered", lag: 6, open: 1, deadLetters: 0, owners: ["m", "m"] },
    ]);
    expect(groups[0]!.oldestMs).toBeGreaterThan(0);
  });
  await stuck.service.stop(soft());
  expect((await t.queue.describe(t.topic)).groups[0]!.owners).toEqual([undefined, undefined]);
});

test("dead letters stay their week by Redis TIME, whatever the clock of the process that trims", async () => {
  const clock = { ...systemClock, now: () => Date.now() + 8 * 24 * 3_600_000 };
  await using t = await openTestQueue("mq-retention", { partitions: 1, clock });
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered" },
      handle() {
        throw new Bury("no use");
      },
    }),
  );
  await t.publish("k", 1, 3);
  await eventually(async () => expect(await t.deadLetters("g")).toHaveLength(3));
  await t.queue.trim(t.topic);
  expect(await t.deadLetters("g")).toHaveLength(3);
});
