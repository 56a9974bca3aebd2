/** What Redis may do under a consumer: forget everything, restart, hold something else at a key. No test stops or restarts a consumer. */

import { expect, test } from "bun:test";
import type { ConsumeOptions } from "../../lib/mq/index.ts";
import { eventually } from "../support/eventually.ts";
import { byKey, keysOfOnePartition, type Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";
import { startTestRedis } from "../support/redis-server.ts";

const MODES = ["ordered", "concurrent"] as const;

/** Runs one member per mode; each remembers the distinct numbers that it saw. */
async function runBoth(t: TestQueue): Promise<Record<(typeof MODES)[number], Set<string>>> {
  const seen = { ordered: new Set<string>(), concurrent: new Set<string>() };
  for (const mode of MODES) {
    const options: ConsumeOptions<Numbered> = {
      ...{ group: mode, mode, leaseMs: 1_000 },
      handle: ({ key, data }) => seen[mode].add(`${key} ${data.n}`),
    };
    await t.run(t.queue.consume(t.topic, options));
  }
  return seen;
}

test("FLUSHALL: groups are made again from the first entry, and go on", async () => {
  const server = await startTestRedis();
  await using _server = { [Symbol.asyncDispose]: () => server.stop() };
  await using t = await openTestQueue("mq-heal", { url: server.url });
  const seen = await runBoth(t);
  await t.publish("a", 1, 50);
  await eventually(() => expect([seen.ordered.size, seen.concurrent.size]).toEqual([50, 50]));
  await t.store.redis.commands.flushall();
  await t.publish("a", 51, 100);
  await t.publish("b", 1, 50);
  await eventually(() => expect([seen.ordered.size, seen.concurrent.size]).toEqual([150, 150]));
  await eventually(async () => expect((await t.queue.describe(t.topic)).groups.map(({ lag }) => lag)).toEqual([0, 0]));
});

test("a group that was destroyed begins again where it stood, not behind the last entry", async () => {
  await using t = await openTestQueue("mq-heal", { partitions: 1 });
  const { redis, keys } = t.store;
  const seen: number[] = [];
  const stream = keys.topic("t", 0);
  const options: ConsumeOptions<Numbered> = {
    ...{ group: "g", mode: "concurrent" },
    handle: ({ data }) => seen.push(data.n),
  };
  await t.run(t.queue.consume(t.topic, options));
  await t.publish("k", 1, 10);
  await eventually(async () => {
    const [last] = await redis.commands.xrevrange(stream, "+", "-", "COUNT", 1);
    expect((await t.lease("g", "k")).checkpoint).toBe(last![0]);
  });
  await redis.commands.multi().xgroup("DESTROY", stream, "g").xadd(stream, "*", "id numbered k  ", '{"n":11}').exec();
  await t.publish("k", 12, 20);
  await eventually(() => expect(seen).toEqual(range(1, 20)));
});

test("Redis is killed and restarted under consumption: nothing is lost, keys keep their order", async () => {
  const server = await startTestRedis({ appendfsync: "always" });
  await using _server = { [Symbol.asyncDispose]: () => server.stop() };
  await using t = await openTestQueue("mq-heal", { url: server.url });
  const seen = await runBoth(t);
  const order: { key: string; data: Numbered }[] = [];
  await t.run(
    t.queue.consume(t.topic, {
      group: "watch",
      mode: "ordered",
      leaseMs: 1_000,
      handle: (message) => order.push(message),
    }),
  );
  let upTo = 0;
  for (let life = 0; life < 3; life++) {
    for (const key of ["a", "b", "c"]) await t.publish(key, upTo + 1, upTo + 100);
    upTo += 100;
    server.kill("SIGKILL");
    await server.restart();
    // The request path fails at once while Redis is away; a producer repeats.
    await eventually(() => t.store.redis.commands.ping());
  }
  await eventually(() => expect([seen.ordered.size, seen.concurrent.size]).toEqual([900, 900]));
  await eventually(() => {
    for (const numbers of Object.values(byKey(order))) {
      // A restart may repeat what was not committed, never skip.
      const first = numbers.filter((n, i) => numbers.indexOf(n) === i);
      expect(first).toEqual(range(1, 300));
    }
  });
});

test("Redis is full: publishing is refused, and groups go on to drain what is there", async () => {
  const server = await startTestRedis();
  await using _server = { [Symbol.asyncDispose]: () => server.stop() };
  await using t = await openTestQueue("mq-heal", { url: server.url });
  const { commands } = t.store.redis;
  await t.publish("a", 1, 50);
  await commands.config("SET", "maxmemory", "1mb");
  const refused = await t.queue.publish(t.topic, { type: "a", data: { n: 1 } }).catch((error: unknown) => error);
  expect(refused).toMatchObject({ code: "OVERLOADED" });
  const seen = await runBoth(t);
  const options: ConsumeOptions<Numbered> = {
    ...{ group: "failing", mode: "concurrent", backoff: [1], maxAttempts: 2 },
    handle() {
      throw new Error("no");
    },
  };
  await t.run(t.queue.consume(t.topic, options));
  await eventually(() => expect([seen.ordered.size, seen.concurrent.size]).toEqual([50, 50]));
  await eventually(async () => expect(await t.deadLetters("failing")).toHaveLength(50));
  await eventually(async () =>
    expect((await t.queue.describe(t.topic)).groups.map(({ lag }) => lag)).toEqual([0, 0, 0]),
  );
  await commands.config("SET", "maxmemory", "0");
  await t.publish("a", 51, 60);
  await eventually(() => expect(seen.ordered.size).toBe(60));
});

test("a stop while Redis is away ends soon, and the place is found again", async () => {
  const server = await startTestRedis({ appendfsync: "always" });
  await using _server = { [Symbol.asyncDispose]: () => server.stop() };
  for (const mode of MODES) {
    await using t = await openTestQueue("mq-heal", { url: server.url });
    const seen = new Set<number>();
    const options: ConsumeOptions<Numbered> = { group: "g", mode, handle: ({ data }) => seen.add(data.n) };
    const service = await t.run(t.queue.consume(t.topic, options));
    await t.publish("k", 1, 20);
    await eventually(() => expect(seen.size).toBe(20));
    server.kill("SIGKILL");
    await Bun.sleep(30);
    const stoppedAt = performance.now();
    await service.stop(AbortSignal.timeout(4_000));
    expect(performance.now() - stoppedAt).toBeLessThan(10_000);
    await server.restart();
    await eventually(() => t.publish("k", 21, 40));
    await t.run(t.queue.consume(t.topic, options));
    await eventually(() => expect(seen.size).toBe(40));
  }
});

test("a stream key of a wrong type holds up its own partition only, until it is gone", async () => {
  for (const mode of MODES) {
    await using t = await openTestQueue("mq-heal", { partitions: 2 });
    const { redis, keys } = t.store;
    const other = range(1, 50)
      .map(String)
      .find((key) => keys.partitionOf(key) !== keys.partitionOf("k"))!;
    const seen = new Set<string>();
    const options: ConsumeOptions<Numbered> = {
      ...{ group: "g", mode, leaseMs: 1_000 },
      handle: ({ key, data }) => seen.add(`${key} ${data.n}`),
    };
    await t.run(t.queue.consume(t.topic, options));
    const stream = keys.topic("t", keys.partitionOf("k"));
    await redis.commands.multi().del(stream).set(stream, "planted").exec();
    await t.publish(other, 1, 20);
    await eventually(() => expect(seen.size).toBe(20));
    await redis.commands.del(stream);
    await t.publish("k", 1, 20);
    await eventually(() => expect(seen.size).toBe(40));
  }
});

test("a slow partition does not hold up the others, and is read again as soon as it has room", async () => {
  await using t = await openTestQueue("mq-heal", { partitions: 2 });
  const { keys } = t.store;
  const other = range(1, 50)
    .map(String)
    .find((key) => keys.partitionOf(key) !== keys.partitionOf("k"))!;
  const gate = Promise.withResolvers<void>();
  const seen: Record<string, number[]> = { k: [], [other]: [] };
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered", batchMax: 5 },
      async handleBatch(messages) {
        if (messages[0]!.key === "k") await gate.promise;
        for (const { key, data } of messages) seen[key]!.push(data.n);
      },
    }),
  );
  // One batch in hand, one read ahead, and more waiting in the stream.
  await t.publish("k", 1, 20);
  await Bun.sleep(30);
  await t.publish(other, 1, 20);
  await eventually(() => expect(seen[other]).toEqual(range(1, 20)));
  expect(seen.k).toEqual([]);
  await Bun.sleep(30);
  gate.resolve();
  // The read is blocked on the idle partition by now: without being ended it would last for 5 s, and the next one too.
  await eventually(() => expect(seen.k).toEqual(range(1, 20)), 4_000);
});

test("keys of one partition that fail together leave room for the rest of the partition", async () => {
  await using t = await openTestQueue("mq-heal");
  const keys = keysOfOnePartition(t.store.keys.partitionOf, 12);
  const good = keys.at(-1)!;
  const seen: number[] = [];
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered", backoff: [50], maxAttempts: Number.POSITIVE_INFINITY },
      handle({ key, data }) {
        if (key !== good) throw new Error("down");
        seen.push(data.n);
      },
    }),
  );
  for (const key of keys) await t.publish(key, 1, 50);
  await eventually(() => expect(seen).toEqual(range(1, 50)));
});
