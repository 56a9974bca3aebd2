import { expect, test } from "bun:test";
import { AppError } from "../../lib/errors.ts";
import { defineTopic } from "../../lib/mq/index.ts";
import { Numbered, openTestQueue } from "../support/queue.ts";
import { refusal } from "../support/refusal.ts";

test("a published message lies in the partition of its key with its facts and data", async () => {
  await using t = await openTestQueue("mq-producer");
  const result = await t.queue.publish(t.topic, {
    type: "made",
    key: "k1",
    data: { n: 1 },
    sequence: 7,
    properties: { trace: "abc" },
  });
  const { keys, redis } = t.store;
  expect(result.partition).toBe(keys.partitionOf("k1"));
  const entries = await redis.commands.xrange(keys.topic("t", result.partition), "-", "+");
  expect(entries).toEqual([[result.entry, [`${result.id} made k1 7 {"trace":"abc"}`, '{"n":1}']]]);
});

test("raw data is stored byte for byte", async () => {
  await using t = await openTestQueue("mq-producer");
  const raw = '{ "n": 1.0000000000000001, "x": [] }';
  const { partition } = await t.queue.publish(t.topic, { type: "made", key: "k", raw });
  const [entry] = await t.store.redis.commands.xrange(t.store.keys.topic("t", partition), "-", "+");
  expect(entry![1][1]).toBe(raw);
});

test("publishMany answers in the order of its inputs, over all partitions and chunks", async () => {
  await using t = await openTestQueue("mq-producer");
  const inputs = Array.from({ length: 3_000 }, (_, n) => ({
    type: "made",
    key: `k${n % 50}`,
    id: `id-${n}`,
    data: { n },
  }));
  const results = await t.queue.publishMany(t.topic, inputs);
  expect(results.map(({ id }) => id)).toEqual(inputs.map(({ id }) => id));
  const counts = await Promise.all([0, 1, 2, 3].map((p) => t.store.redis.commands.xlen(t.store.keys.topic("t", p))));
  expect(counts.reduce((a, b) => a + b)).toBe(3_000);
});

test("publications of one tick travel as one script call per partition", async () => {
  await using t = await openTestQueue("mq-producer", { partitions: 1 });
  const calls = async () => {
    const stats = await t.store.redis.commands.info("commandstats");
    return ["eval", "evalsha"].reduce(
      (sum, name) => sum + Number(new RegExp(`cmdstat_${name}:calls=(\\d+)`).exec(stats)?.[1] ?? 0),
      0,
    );
  };
  await t.publish("k", 1, 1);
  const before = await calls();
  await Promise.all(Array.from({ length: 100 }, (_, n) => t.queue.publish(t.topic, { type: "made", data: { n } })));
  expect((await calls()) - before).toBe(1);
});

test("a duplicate within the window returns the original and appends nothing", async () => {
  await using t = await openTestQueue("mq-producer");
  const input = { type: "made", key: "k", data: { n: 1 }, dedupId: "order 7" };
  const first = await t.queue.publish(t.topic, input);
  const second = await t.queue.publish(t.topic, input);
  expect(second).toEqual({ ...first, duplicate: true });
  const [third, fourth] = await t.queue.publishMany(t.topic, [
    { ...input, dedupId: "order 8" },
    { ...input, dedupId: "order 8" },
  ]);
  expect(fourth).toEqual({ ...third!, duplicate: true });
  expect(await t.store.redis.commands.xlen(t.store.keys.topic("t", first.partition))).toBe(2);
});

test("a dedupe id is forgotten after its window, and its memory with it", async () => {
  const topic = defineTopic("t", { schema: Numbered, dedupMs: 60 });
  await using t = await openTestQueue("mq-producer", { topic, partitions: 1 });
  const input = { type: "made", key: "k", data: { n: 1 }, dedupId: "a" };
  await t.queue.publish(topic, input);
  for (let n = 0; n < 6; n++) {
    await Bun.sleep(61);
    expect((await t.queue.publish(topic, input)).duplicate).toBe(false);
  }
  const { keys, redis } = t.store;
  const sizes = await Promise.all(
    (["even", "odd"] as const).map((parity) => redis.commands.hlen(keys.published("t", 0, parity))),
  );
  expect(Math.max(...sizes)).toBeLessThanOrEqual(2);
});

test("limits are named with the field: data, properties, key, type, id", async () => {
  await using t = await openTestQueue("mq-producer");
  const text = (bytes: number) => `"${"é".repeat((bytes - 2) / 2)}"`;
  const fits = { type: "made", key: "k", raw: text(256 * 1024) };
  expect((await t.queue.publish(t.topic, fits)).duplicate).toBe(false);
  const large = await refusal(t.queue.publish(t.topic, { ...fits, raw: text(256 * 1024 + 2) }));
  expect(large).toMatchObject({
    code: "TOO_LARGE",
    issues: [{ path: "data", message: "is 262146 bytes; the limit is 262144" }],
  });
  const properties = await refusal(t.queue.publish(t.topic, { ...fits, properties: { p: "x".repeat(16 * 1024) } }));
  expect(properties).toMatchObject({ code: "TOO_LARGE", issues: [{ path: "properties" }] });
  for (const [path, input] of [
    ["key", { ...fits, key: "k".repeat(257) }],
    ["type", { ...fits, type: "" }],
    ["id", { ...fits, id: "with blank" }],
    ["key", { ...fits, key: "with\nnewline" }],
    ["dedupId", { ...fits, dedupId: "d".repeat(257) }],
    ["data", { type: "made", key: "k" }],
    ["data.n", { type: "made", key: "k", data: { n: "one" as unknown as number } }],
  ] as const) {
    expect(await refusal(t.queue.publish(t.topic, input))).toMatchObject({ code: "INVALID", issues: [{ path }] });
  }
});

test("publishMany with one invalid input appends nothing", async () => {
  await using t = await openTestQueue("mq-producer", { partitions: 1 });
  const wrong = { n: "x" as unknown as number };
  await refusal(
    t.queue.publishMany(t.topic, [
      { type: "a", data: { n: 1 } },
      { type: "a", data: wrong },
    ]),
  );
  expect(await t.store.redis.commands.exists(t.store.keys.topic("t", 0))).toBe(0);
});

test("the layer rules are asked, and a refusal appends nothing", async () => {
  await using t = await openTestQueue("mq-producer");
  const { openQueue } = await import("../../lib/mq/index.ts");
  const { systemClock } = await import("../../lib/clock.ts");
  const { silentLog } = await import("../../lib/observability/index.ts");
  const refuse = () => {
    throw new AppError("LAYER_VIOLATION", "archive may not publish to t");
  };
  const { redis, keys, metrics } = t.store;
  const queue = openQueue({
    ...{ redis, keys, metrics, clock: systemClock, log: silentLog, member: "archive" },
    may: { publish: refuse, consume: refuse },
  });
  expect((await refusal(queue.publish(t.topic, { type: "a", data: { n: 1 } }))).code).toBe("LAYER_VIOLATION");
  expect(() => queue.consume(t.topic, { group: "g", mode: "ordered", handle: () => undefined })).toThrow("may not");
});

test("without a key a dedupe id works as well, though messages without a key go to any partition", async () => {
  await using t = await openTestQueue("mq-producer", { partitions: 16 });
  for (let i = 0; i < 20; i++) {
    const input = { type: "numbered", data: { n: i }, dedupId: `d${i}` };
    const first = await t.queue.publish(t.topic, input);
    expect(await t.queue.publish(t.topic, input)).toEqual({ ...first, duplicate: true });
  }
});
