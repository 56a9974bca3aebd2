/** The timers with real BullMQ: in time, never early, whatever becomes of jobs, clocks and Redis. */

import { expect, test } from "bun:test";
import type { Clock } from "../../lib/clock.ts";
import { systemClock } from "../../lib/clock.ts";
import { type Chore, defineTopic, openQueue, type Queue } from "../../lib/mq/index.ts";
import { forwardOf } from "../../lib/mq/relay-topic.ts";
import { appended, contextOf, redisNow } from "../support/delayed.ts";
import { eventually } from "../support/eventually.ts";
import { Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";
import { startTestRedis } from "../support/redis-server.ts";
import { sendTwice } from "../support/twice.ts";

const HOUR_MS = 3_600_000;
const soft = () => AbortSignal.timeout(20_000);

/**
 * Publishes n = 1..count, all due within `spreadMs` from `fromMs` on; resolves to when each is due. With a condition, so that what is due
 * already when Redis hears of it (a process may stand still before) waits for its timer, too.
 */
async function publishDue(t: TestQueue, count: number, fromMs: number, spreadMs: number): Promise<Map<number, number>> {
  const now = await redisNow(t.store);
  const due = new Map(range(1, count).map((n) => [n, now + fromMs + Math.floor((spreadMs * n) / count)]));
  await t.queue.publishMany(
    t.topic,
    [...due].map(([n, deliverAt]) => {
      const key = `k${n % 7}`;
      const condition = { kind: "keyAbsent", key: t.queue.own(key, "answered").key } as const;
      return { type: "numbered", key, data: { n }, deliverAt, condition };
    }),
  );
  return due;
}

/** Waits until each was appended once, and none before its time. */
async function expectAllOnce(t: TestQueue, due: ReadonlyMap<number, number>): Promise<void> {
  await eventually(async () => expect((await appended(t)).length).toBeGreaterThanOrEqual(due.size));
  const entries = await appended(t);
  expect(entries.map(({ n }) => n).sort((a, b) => a - b)).toEqual([...due.keys()]);
  expect(entries.filter(({ n, at }) => at < due.get(n)!)).toEqual([]);
}

/** Whether an order to a message due at `dueMs` was obeyed. It must be, but for a process that stood still until that time. */
async function isInTime(t: TestQueue, dueMs: number, order: Promise<string>): Promise<boolean> {
  const answer = await order;
  if ((await redisNow(t.store)) < dueMs) expect(answer).toBe("ok");
  else expect(answer).toBeOneOf(["ok", "already_fired"]);
  return answer === "ok";
}

/** The keys that BullMQ has. */
function bullKeys({ store }: TestQueue): Promise<string[]> {
  return store.redis.commands.keys(`${store.keys.timers()}*`);
}

const shifted = (byMs: number): Clock => ({ ...systemClock, now: () => Date.now() + byMs });

test("delayed messages come when they are due, once, and how late is measured", async () => {
  await using t = await openTestQueue("mq-timers");
  await t.run(t.queue.createTimers());
  const due = await publishDue(t, 300, 1_500, 400);
  await expectAllOnce(t, due);
  await eventually(async () => {
    const { values } = await t.store.metrics.delayedLateness.get();
    expect(values.find(({ metricName }) => metricName?.endsWith("_count"))?.value).toBe(300);
    expect((await t.store.metrics.delayed.get()).values).toMatchObject([{ value: 300, labels: { outcome: "fired" } }]);
  });
  await eventually(async () => {
    const timers = (await bullKeys(t)).filter((key) => /:timers:[0-9A-Z]{20}-/.test(key));
    expect(timers).toEqual([]);
  });
});

test("two processes share the timers, and each message comes once", async () => {
  await using t = await openTestQueue("mq-timers");
  await t.run(t.queue.createTimers());
  await t.run(t.member("other").createTimers());
  await expectAllOnce(t, await publishDue(t, 300, 50, 100));
});

test("on a connection that sends every script twice each message comes once, and a cancelled one never", async () => {
  await using t = await openTestQueue("mq-timers");
  sendTwice(t.store.redis.commands);
  await t.run(t.queue.createTimers());
  const due = await publishDue(t, 100, 1_000, 200);
  const deliverAt = [...due.values()][50]!;
  const { id } = await t.queue.publish(t.topic, { type: "a", data: { n: 0 }, deliverAt });
  const late: [number, number][] = (await isInTime(t, deliverAt, t.queue.delayed.cancel(id))) ? [] : [[0, deliverAt]];
  const at = await t.queue.publish(t.topic, { type: "a", key: "k", data: { n: 101 }, deliverAt: 1 });
  expect(at).toMatchObject({ entry: expect.stringMatching(/-/) as string, duplicate: false });
  await expectAllOnce(t, new Map([...late, ...due, [101, 1]]));
});

test("a moved message comes at its new time, earlier or later, and a cancelled one never", async () => {
  await using t = await openTestQueue("mq-timers");
  await t.run(t.queue.createTimers());
  const now = await redisNow(t.store);
  const publish = (n: number, deliverAt: number) =>
    t.queue.publish(t.topic, { type: "numbered", data: { n }, deliverAt });
  const [earlier, later, cancelled] = await Promise.all([
    publish(1, now + HOUR_MS),
    publish(2, now + 1_500),
    publish(3, now + 1_500),
  ]);
  expect(await t.queue.delayed.move(earlier.id, now + 1_000)).toBe("ok");
  const isMoved = await isInTime(t, now + 1_500, t.queue.delayed.move(later.id, now + 1_800));
  const isCancelled = await isInTime(t, now + 1_500, t.queue.delayed.cancel(cancelled.id));
  const due = new Map([
    [1, now + 1_000],
    [2, now + (isMoved ? 1_800 : 1_500)],
  ]);
  if (!isCancelled) due.set(3, now + 1_500);
  await expectAllOnce(t, due);
});

test("a timer that comes too early fires nothing, and comes again", async () => {
  await using t = await openTestQueue("mq-timers", { partitions: 1 });
  const now = await redisNow(t.store);
  await t.queue.publish(t.topic, { type: "numbered", data: { n: 1 }, deliverAt: now + 1_500 });
  await t.run(t.queue.createTimers());
  const delayed = `${t.store.keys.timers()}:timers:delayed`;
  const { commands } = t.store.redis;
  const timer = async () => (await commands.zrange(delayed, "0", "-1")).find((id) => !id.startsWith("repeat:"));
  const id = await eventually(async () => {
    const found = await timer();
    // Or the process stood still until its time, and it has come.
    if (found === undefined) expect(await appended(t)).toHaveLength(1);
    return found;
  });
  // As a process with a fast clock would have it: due now.
  if (id !== undefined) await commands.zadd(delayed, "XX", "0", id);
  await commands.zadd(`${t.store.keys.timers()}:timers:marker`, "0", "1");
  await expectAllOnce(t, new Map([[1, now + 1_500]]));
});

test.concurrent("with BullMQ's keys gone everything still comes, and the chores go on", async () => {
  await using t = await openTestQueue("mq-timers");
  let runs = 0;
  const chore: Chore = { name: "count", everyMs: 1_000, run: async () => (runs += 1) };
  await t.run(t.queue.createTimers({ chores: [chore] }));
  const due = await publishDue(t, 100, 400, 2_500);
  await eventually(async () => {
    const timers = (await bullKeys(t)).filter((key) => /:timers:[0-9A-Z]{20}-\d+\.\d+$/.test(key));
    // Some may have come already.
    expect(timers.length + (await appended(t)).length).toBeGreaterThanOrEqual(100);
  });
  await eventually(() => expect(runs).toBeGreaterThan(0));
  const { commands } = t.store.redis;
  await commands.del(...(await bullKeys(t)));
  const before = runs;
  await expectAllOnce(t, due);
  await eventually(() => expect(runs).toBeGreaterThan(before + 1));
});

test.concurrent.each([HOUR_MS, -HOUR_MS])(
  "a process whose clock is wrong by %d ms goes without BullMQ, alone or beside others",
  async (skewMs) => {
    await using t = await openTestQueue("mq-timers");
    let runs = 0;
    const chores: Chore[] = [{ name: "count", everyMs: 100, run: async () => (runs += 1) }];
    const wrong = openQueue({ ...contextOf(t, shifted(skewMs)), member: "wrong" });
    await t.run(wrong.createTimers({ chores }));
    await eventually(() => expect(runs).toBeGreaterThan(1));
    await expectAllOnce(t, await publishDue(t, 50, 300, 100));
    const all = await publishDue(t, 150, 100, 700);
    await t.run(t.queue.createTimers());
    await eventually(async () => expect((await appended(t)).length).toBe(200));
    const late = (await appended(t)).slice(-1)[0]!;
    expect(late.at).toBeGreaterThan(all.get(1)!);
  },
);

test.concurrent("a restart of Redis costs a moment: what was due meanwhile comes after it, once", async () => {
  const server = await startTestRedis({ appendfsync: "always" });
  try {
    await using t = await openTestQueue("mq-timers", { url: server.url });
    await t.run(t.queue.createTimers());
    const due = await publishDue(t, 200, 300, 2_000);
    server.kill("SIGKILL");
    await server.restart();
    await expectAllOnce(t, due);
  } finally {
    await server.stop();
  }
});

test("a message published by a process with a fast clock is not early", async () => {
  await using t = await openTestQueue("mq-timers", { partitions: 1 });
  await t.run(t.queue.createTimers());
  const fast = openQueue({ ...contextOf(t, shifted(HOUR_MS)), member: "fast" });
  const deliverAt = (await redisNow(t.store)) + 400;
  await fast.publish(t.topic, { type: "numbered", data: { n: 1 }, deliverAt });
  await expectAllOnce(t, new Map([[1, deliverAt]]));
});

test("a chore is done by one of all processes each time, and goes on when it failed", async () => {
  await using t = await openTestQueue("mq-timers");
  const runs: string[] = [];
  const choresOf = (name: string): Chore[] => [
    {
      name: "count",
      everyMs: 200,
      async run() {
        runs.push(name);
        throw new Error("each time");
      },
    },
  ];
  const startedMs = performance.now();
  await t.run(t.queue.createTimers({ chores: choresOf("a") }));
  await t.run(t.member("other").createTimers({ chores: choresOf("b") }));
  await eventually(() => expect(runs.length).toBeGreaterThanOrEqual(8));
  expect(runs.length).toBeLessThanOrEqual((performance.now() - startedMs) / 200 + 2);
});

test("forwards of a transaction reach their partition once, those with a due time at their time", async () => {
  const topic = defineTopic("t", { schema: Numbered, dedupMs: 60_000 });
  await using t = await openTestQueue("mq-timers", { topic });
  const { keys, redis } = t.store;
  const relay = (key: string, n: number, id: string, deliverAt?: number) => {
    const input = { type: "numbered", key, data: { n }, ...(deliverAt ? { deliverAt } : {}) };
    const header = `${id} forward ${key}  `;
    return redis.commands.xadd(keys.topic("im.relay", 0), "*", header, forwardOf(topic, input, id));
  };
  const due = (await redisNow(t.store)) + 300;
  await Promise.all([relay("a", 1, "one"), relay("b", 2, "two"), relay("a", 1, "one"), relay("c", 3, "three", due)]);
  await relay("c", 3, "three", due);
  await t.run(t.queue.createTimers());
  await eventually(async () => expect((await appended(t)).length).toBe(3));
  const entries = await appended(t);
  expect(entries.map(({ n }) => n).sort()).toEqual([1, 2, 3]);
  expect(entries.find(({ n }) => n === 3)!.at).toBeGreaterThanOrEqual(due);
  const lengths = ["a", "b", "c"].map((key) => redis.commands.xlen(keys.topic("t", keys.partitionOf(key))));
  expect((await Promise.all(lengths)).every((length) => length > 0)).toBe(true);
});

test("stopping is soft while Redis answers, and bounded while it is away", async () => {
  const server = await startTestRedis();
  try {
    await using t = await openTestQueue("mq-timers", { url: server.url });
    const clients = async () =>
      String(await t.store.redis.commands.client("LIST"))
        .trim()
        .split("\n").length;
    const before = await clients();
    const first = t.queue.createTimers();
    await first.start();
    expect(await clients()).toBeGreaterThan(before);
    await first.stop(soft());
    await eventually(async () => expect(await clients()).toBe(before));
    const second = t.queue.createTimers();
    await second.start();
    server.kill("SIGKILL");
    const startedMs = performance.now();
    await second.stop(AbortSignal.timeout(500));
    expect(performance.now() - startedMs).toBeLessThan(7_000);
  } finally {
    await server.stop();
  }
});

test("one process runs them at most once", async () => {
  await using t = await openTestQueue("mq-timers");
  const queue: Queue = t.queue;
  await t.run(queue.createTimers());
  expect(queue.createTimers().start()).rejects.toThrow("im.relay/relay");
});
