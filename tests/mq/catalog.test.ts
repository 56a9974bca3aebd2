/** Declared topics and groups: idempotent, bounded, the same for every process. */

import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { systemClock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { defineTopic, openQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { eventually } from "../support/eventually.ts";
import { openTestQueue, type TestQueue } from "../support/queue.ts";

const product = defineTopic("im.events", { schema: v.strictObject({ a: v.number() }), lengthMax: 7 });

const open = ({ store: { redis, keys, metrics } }: TestQueue, member: string) =>
  openQueue({ redis, keys, metrics, clock: systemClock, log: silentLog, member, topics: [product] }).catalog;

async function refusal(promise: Promise<unknown>): Promise<AppError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(AppError);
  return error as AppError;
}

test("a declaration again has no effect; other settings hold in every process soon", async () => {
  await using t = await openTestQueue("catalog");
  const [here, there] = [open(t, "a"), open(t, "b")];
  const first = await here.declareTopic("orders", { retentionMs: 5_000 });
  expect(first).toMatchObject({ isNew: true, settings: { retentionMs: 5_000 } });
  expect(await there.topicOf("orders")).toMatchObject({ retentionMs: 5_000, lengthMax: 1_000_000 });
  const again = await here.declareTopic("orders", { retentionMs: 5_000 });
  expect(again).toEqual({ ...first, isNew: false });
  expect(await there.topicOf("orders")).toBe(await there.topicOf("orders"));
  await here.declareTopic("orders", { maxLength: 10 });
  expect((await here.topicOf("orders")).lengthMax).toBe(10);
  await eventually(async () => expect((await there.topicOf("orders")).lengthMax).toBe(10));
});

test("a topic that nobody declared is not there, until something is published to it", async () => {
  await using t = await openTestQueue("catalog");
  const catalog = open(t, "a");
  expect((await refusal(catalog.topicOf("orders"))).code).toBe("NOT_FOUND");
  expect((await catalog.ensureTopic("orders")).name).toBe("orders");
  await catalog.declareTopic("orders", { maxLength: 3 });
  expect((await catalog.ensureTopic("orders")).lengthMax).toBe(3);
  expect((await catalog.topics()).map(({ topic }) => topic)).toEqual(["im.events", "orders"]);
});

test("the product's topics are known with their own schema and cannot be declared", async () => {
  await using t = await openTestQueue("catalog");
  const catalog = open(t, "a");
  expect(await catalog.topicOf("im.events")).toBe(product as never);
  expect((await refusal(catalog.declareTopic("im.events", {}))).code).toBe("FORBIDDEN");
  await catalog.declareGroup("im.events", "search", { mode: "ordered" });
  expect((await catalog.groups("im.events")).map(({ group }) => group)).toEqual(["search"]);
});

test("a declared group is registered in every partition with its start, and keeps its mode", async () => {
  await using t = await openTestQueue("catalog");
  const { keys, redis } = t.store;
  await t.publish("k", 1, 3);
  const catalog = open(t, "a");
  const declared = await catalog.declareGroup("t", "late", { mode: "concurrent", start: "latest", tags: ["x"] });
  expect(declared).toMatchObject({ isNew: true, settings: { mode: "concurrent", start: "latest", tags: ["x"] } });
  for (let partition = 0; partition < keys.partitions; partition++) {
    expect(await redis.commands.hget(keys.groups("t", partition), "late")).toMatch(/^concurrent /);
  }
  const description = await t.queue.describe(t.topic);
  expect(description.groups[0]).toMatchObject({ group: "late", lag: 0 });
  expect((await refusal(catalog.declareGroup("t", "late", { mode: "ordered" }))).code).toBe("CONFLICT");
  expect(await catalog.declareGroup("t", "late", { mode: "concurrent", leaseMs: 2_000 })).toMatchObject({
    isNew: false,
    created: declared.created,
    settings: { leaseMs: 2_000 },
  });
});

test("a name that a group in process has under another mode is refused, and leaves nothing behind", async () => {
  await using t = await openTestQueue("catalog");
  await t.run(t.queue.consume(t.topic, { group: "g", mode: "ordered", handle: () => undefined }));
  const catalog = open(t, "a");
  expect((await refusal(catalog.declareGroup("t", "g", { mode: "concurrent" }))).code).toBe("CONFLICT");
  expect(await catalog.groups("t")).toEqual([]);
  await catalog.declareGroup("t", "g", { mode: "ordered" });
});

test("webhooks are listed with a revision that changes with the settings", async () => {
  await using t = await openTestQueue("catalog");
  const catalog = open(t, "a");
  const webhook = { url: "https://example.com/hook", secret: "0123456789" };
  await catalog.declareGroup("t", "w", { mode: "ordered", webhook });
  const [first] = await catalog.webhooks();
  expect(first).toMatchObject({ topic: "t", group: "w" });
  await catalog.declareGroup("t", "w", { mode: "ordered", webhook });
  expect(await catalog.webhooks()).toEqual([first!]);
  await catalog.declareGroup("t", "w", {
    mode: "ordered",
    webhook: { ...webhook, secret: ["0123456789", "abcdefghij"] },
  });
  expect((await catalog.webhooks())[0]?.revision).not.toBe(first!.revision);
  await catalog.declareGroup("t", "w", { mode: "ordered" });
  expect(await catalog.webhooks()).toEqual([]);
});

describe("settings out of range are refused by name", () => {
  const hook = (change: object) => ({ webhook: { url: "https://a.example", secret: "0123456789", ...change } });
  test.each<[string, object, string]>([
    ["no mode", { mode: undefined }, "mode"],
    ["another mode", { mode: "parallel" }, "mode"],
    ["start at nothing", { start: "newest" }, "start"],
    ["start before time", { start: -1 }, "start"],
    ["start at a fraction", { start: { time: 1.5 } }, "start.time"],
    ["start at no entry", { start: { id: "x" } }, "start.id"],
    ["a lease of 999 ms", { leaseMs: 999 }, "leaseMs"],
    ["a lease of 12 h and 1 ms", { leaseMs: 43_200_001 }, "leaseMs"],
    ["no attempt", { maxAttempts: 0 }, "maxAttempts"],
    ["1 001 attempts", { maxAttempts: 1_001 }, "maxAttempts"],
    ["no wait", { backoff: [] }, "backoff"],
    ["33 waits", { backoff: new Array(33).fill(1) }, "backoff"],
    ["a wait of more than a day", { backoff: [86_400_001] }, "backoff.0"],
    ["a jitter of 2", { backoff: { firstMs: 1, maxMs: 2, jitter: 2 } }, "backoff.jitter"],
    ["another poison policy", { onPoison: "drop" }, "onPoison"],
    ["a poison policy of a concurrent group", { mode: "concurrent", onPoison: "park" }, "onPoison"],
    ["no tags", { tags: [] }, "tags"],
    ["101 tags", { tags: Array.from({ length: 101 }, (_, i) => `t${i}`) }, "tags"],
    ["a tag with a blank", { tags: ["a b"] }, "tags.0"],
    ["a webhook by ftp", hook({ url: "ftp://a.example" }), "webhook.url"],
    ["a webhook with a line break", hook({ url: "https://a.example/\r\nx: y" }), "webhook.url"],
    ["a webhook of 1 001 characters", hook({ url: `https://a.example/${"a".repeat(983)}` }), "webhook.url"],
    ["a webhook without a secret", { webhook: { url: "https://a.example" } }, "webhook.secret"],
    ["a short secret", hook({ secret: "1234567" }), "webhook.secret"],
    ["a secret that is not base64", hook({ secret: "whsec_!!!!!!!!!!!!!!!!!!!!!!!!" }), "webhook.secret"],
    ["three secrets", hook({ secret: ["0123456789", "0123456789", "0123456789"] }), "webhook.secret"],
    ["a webhook of a broadcast group", { mode: "broadcast", ...hook({}) }, "webhook"],
    ["an unknown field", { priority: 1 }, "priority"],
  ])("%s", async (_, change, path) => {
    await using t = await openTestQueue("catalog");
    const error = await refusal(open(t, "a").declareGroup("t", "g", { mode: "ordered", ...change } as never));
    expect(error.code).toBe("INVALID");
    expect(error.issues?.[0]?.path).toStartWith(path.split(".")[0]!);
    expect(await open(t, "b").groups("t")).toEqual([]);
  });

  test.each<[string, object, string]>([
    ["no time", { retentionMs: 0 }, "retentionMs"],
    ["more than a year", { retentionMs: 31_536_000_001 }, "retentionMs"],
    ["text", { retentionMs: "1000" }, "retentionMs"],
    ["no room", { maxLength: 0 }, "maxLength"],
    ["a fraction", { maxLength: 1.5 }, "maxLength"],
    ["an unknown field", { partitions: 3 }, "partitions"],
  ])("a topic with %s", async (_, settings, path) => {
    await using t = await openTestQueue("catalog");
    const error = await refusal(open(t, "a").declareTopic("orders", settings));
    expect([error.code, error.issues?.[0]?.path]).toEqual(["INVALID", path]);
  });
});

test("topics and groups are bounded, and those that exist can still be changed", async () => {
  await using t = await openTestQueue("catalog");
  const { keys, redis } = t.store;
  const fill = (key: string, count: number) =>
    redis.commands.hset(key, Object.fromEntries(Array.from({ length: count }, (_, i) => [`x${i}`, "1 ordered {}"])));
  await fill(keys.topics(), 1_000);
  const catalog = open(t, "a");
  expect((await refusal(catalog.ensureTopic("one-more"))).issues?.[0]?.path).toBe("topic");
  expect((await catalog.declareTopic("x5", { maxLength: 4 })).isNew).toBe(false);
  await fill(keys.groupSettings("x5"), 100);
  expect((await refusal(catalog.declareGroup("x5", "one-more", { mode: "ordered" }))).issues?.[0]?.path).toBe("group");
  await catalog.declareGroup("x5", "x7", { mode: "ordered" });
  const webhook = { url: "https://a.example", secret: "0123456789" };
  await fill(keys.webhooks(), 200);
  const refused = await refusal(catalog.declareGroup("x5", "x7", { mode: "ordered", webhook }));
  expect(refused.issues?.[0]?.path).toBe("webhook");
});
