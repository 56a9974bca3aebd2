/** Delayed messages as records: what is kept, what the firing script does with it, and what cancel, move and list answer. */

import { describe, expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { partitionOfPlacedId } from "../../lib/id.ts";
import { type Condition, defineTopic, openQueue, type PublishInput, type PublishResult } from "../../lib/mq/index.ts";
import { reconcile } from "../../lib/mq/reconcile.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { appended, contextOf, firingOf, redisNow } from "../support/delayed.ts";
import { eventually } from "../support/eventually.ts";
import { Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

const numbered = (n: number, more: Partial<PublishInput<Numbered>> = {}): PublishInput<Numbered> => ({
  ...{ type: "numbered", key: "k", data: { n } },
  ...more,
});

/** In an hour, by Redis TIME. */
async function inAnHour(t: TestQueue): Promise<number> {
  return (await redisNow(t.store)) + HOUR_MS;
}

async function publishAt(t: TestQueue, deliverAt: number, more: Partial<PublishInput<Numbered>> = {}) {
  return t.queue.publish(t.topic, numbered(1, { deliverAt, ...more }));
}

/** Published to be due at once, but for a condition that makes it wait for its firing. */
async function publishDue(t: TestQueue, condition: Condition) {
  return publishAt(t, 1, { condition });
}

function untilAfter({ store }: TestQueue, ms: number): Promise<void> {
  return eventually(async () => expect(await redisNow(store)).toBeGreaterThan(ms));
}

async function refusal(call: Promise<unknown>): Promise<AppError> {
  const error = await call.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(AppError);
  return error as AppError;
}

describe("a message with deliverAt", () => {
  test("is a record in the partition of its key, and in no topic before its time", async () => {
    await using t = await openTestQueue("mq-delayed");
    const deliverAt = await inAnHour(t);
    const result = await publishAt(t, deliverAt, { tag: "vip", expireAt: deliverAt + 1 });
    const partition = t.store.keys.partitionOf("k");
    expect(result).toEqual({ id: result.id, partition, entry: "", duplicate: false, deliverAt });
    expect(partitionOfPlacedId(result.id, t.store.partitions)).toBe(partition);
    expect(await appended(t)).toEqual([]);
    expect(await t.queue.delayed.get(result.id)).toEqual({
      ...{ id: result.id, state: "PENDING", version: 1, deliverAt, createdAt: expect.any(Number) as number },
      ...{ topic: "t", type: "numbered", key: "k", expireAt: deliverAt + 1, raw: '{"n":1}' },
    });
  });

  test("is appended at once when its time has passed, and answers so", async () => {
    await using t = await openTestQueue("mq-delayed");
    for (const deliverAt of [0, 1, (await redisNow(t.store)) - 1]) {
      const result = await publishAt(t, deliverAt);
      expect(result).toMatchObject({ duplicate: false, entry: expect.stringMatching(/^\d+-\d+$/) as string });
      expect(result.deliverAt).toBeUndefined();
      expect(await t.queue.delayed.get(result.id)).toMatchObject({ state: "FIRED", entry: result.entry });
      expect(await t.queue.delayed.cancel(result.id)).toBe("already_fired");
    }
    expect((await appended(t)).length).toBe(3);
  });

  test("travels beside others in one publishMany, and every result says what became of its input", async () => {
    await using t = await openTestQueue("mq-delayed");
    const deliverAt = await inAnHour(t);
    const results = await t.queue.publishMany(t.topic, [
      numbered(1),
      numbered(2, { deliverAt }),
      numbered(3, { key: "other", deliverAt }),
      numbered(4, { deliverAt: 1 }),
    ]);
    expect(results.map((result) => result.deliverAt)).toEqual([undefined, deliverAt, deliverAt, undefined]);
    expect((await appended(t)).map(({ n }) => n).sort()).toEqual([1, 4]);
  });

  test("is the original of its duplicates, before and after it was fired", async () => {
    await using t = await openTestQueue("mq-delayed");
    const deliverAt = await inAnHour(t);
    const first = await publishAt(t, deliverAt, { dedupId: "order-7" });
    const again = await publishAt(t, deliverAt + 1, { dedupId: "order-7" });
    expect(again).toEqual({ ...first, duplicate: true });
    expect(await t.queue.publish(t.topic, numbered(2, { dedupId: "order-7" }))).toEqual({ ...first, duplicate: true });
    await t.queue.delayed.sendNow(first.id);
    expect((await publishAt(t, deliverAt, { dedupId: "order-7" })).id).toBe(first.id);
    const [one, two] = await t.queue.publishMany(t.topic, [
      numbered(1, { deliverAt, dedupId: "order-8" }),
      numbered(2, { deliverAt, dedupId: "order-8" }),
    ]);
    expect(two).toEqual({ ...one!, duplicate: true });
    expect((await appended(t)).length).toBe(1);
  });

  test("keeps its tag, and its sequence as where it comes from", async () => {
    await using t = await openTestQueue("mq-delayed");
    const { id } = await publishAt(t, await inAnHour(t), { sequence: 17, tag: "vip", properties: { trace: "a b" } });
    const seen: unknown[] = [];
    await t.run(
      t.queue.consume(t.topic, {
        ...{ group: "g", mode: "ordered", tags: ["vip"] },
        handle: (message) => {
          seen.push([message.id, message.sequence, message.originSequence, message.tag, message.properties]);
        },
      }),
    );
    expect(await t.queue.delayed.sendNow(id)).toBe("ok");
    await eventually(() => expect(seen).toEqual([[id, 17, "17", "vip", { trace: "a b" }]]));
  });

  test("is refused with the field and its limit", async () => {
    await using t = await openTestQueue("mq-delayed");
    const now = Date.now();
    const elsewhere = ["a", "b", "c", "d", "e", "f"].find(
      (key) => t.store.keys.partitionOf(key) !== t.store.keys.partitionOf("k"),
    )!;
    const condition: Condition = { kind: "keyAbsent", key: t.queue.own(elsewhere, "x").key };
    for (const [path, more] of [
      ["deliverAt", { deliverAt: now + 41 * DAY_MS }],
      ["deliverAt", { deliverAt: Number.NaN }],
      ["deliverAt", { deliverAt: -1 }],
      ["deliverAt", { deliverAt: 1.5 }],
      ["id", { deliverAt: now + HOUR_MS, id: "mine" }],
      ["expireAt", { deliverAt: now + HOUR_MS, expireAt: now + 1 }],
      ["condition.key", { deliverAt: now + HOUR_MS, condition }],
      ["condition.key", { deliverAt: now, condition: { kind: "keyAbsent", key: "anything" } }],
      ["condition", { condition: { kind: "keyAbsent", key: t.queue.own("k", "x").key } }],
    ] as const) {
      const error = await refusal(t.queue.publish(t.topic, numbered(1, more as Partial<PublishInput<Numbered>>)));
      expect(error).toMatchObject({ code: "INVALID", issues: [{ path }] });
    }
    expect((await refusal(publishAt(t, now + 41 * DAY_MS))).message).toContain("40 days");
    expect((await t.queue.delayed.list()).messages).toEqual([]);
  });

  test("may lie up to a year ahead where the queue is told so, and no farther", async () => {
    await using t = await openTestQueue("mq-delayed");
    const open = (days: number) => openQueue({ ...contextOf(t), delayMsMax: days * DAY_MS });
    const deliverAt = Date.now() + 364 * DAY_MS;
    expect((await open(365).publish(t.topic, numbered(1, { deliverAt }))).deliverAt).toBe(deliverAt);
    expect(() => open(366)).toThrow("365 days");
  });

  test("asks the layer rules for the relay as well", async () => {
    await using t = await openTestQueue("mq-delayed");
    const asked: string[] = [];
    const { redis, keys, metrics } = t.store;
    const queue = openQueue({
      ...{ redis, keys, metrics, clock: systemClock, log: silentLog, member: "m" },
      may: { publish: (topic) => asked.push(topic), consume: () => undefined },
    });
    await queue.publish(t.topic, numbered(1));
    await queue.publish(t.topic, numbered(2, { deliverAt: await inAnHour(t) }));
    expect(asked).toEqual(["t", "t", "im.relay"]);
  });
});

describe("the firing script", () => {
  test("fires by Redis TIME, never before, and once however many ask", async () => {
    await using t = await openTestQueue("mq-delayed", { partitions: 1 });
    const inHour = await inAnHour(t);
    const { id } = await publishAt(t, inHour);
    const others = range(1, 4).map(() => firingOf(t));
    const early = await others[0]!.fire(id);
    expect(early).toMatchObject({ kind: "early", dueMs: inHour, version: 1 });
    expect((early as { leftMs: number }).leftMs).toBeLessThanOrEqual(HOUR_MS);
    const deliverAt = (await redisNow(t.store)) + 700;
    expect(await t.queue.delayed.move(id, deliverAt)).toBe("ok");
    let kinds: string[] = [];
    while (!kinds.includes("fired")) {
      kinds = (await Promise.all(others.map((firing) => firing.fire(id)))).map(({ kind }) => kind);
    }
    expect(kinds.filter((kind) => kind === "fired").length).toBe(1);
    expect(await others[1]!.fire(id)).toEqual({ kind: "ended", state: "FIRED" });
    const [entry, ...more] = await appended(t);
    expect(more).toEqual([]);
    expect(entry!.at).toBeGreaterThanOrEqual(deliverAt);
    expect(await t.store.redis.commands.hexists(t.store.keys.delayed(0), `${id}:`)).toBe(0);
  });

  test("takes hundreds of a tick in a few calls, and answers each with its own outcome", async () => {
    await using t = await openTestQueue("mq-delayed", { partitions: 1 });
    const inputs = range(1, 250).map((n) =>
      numbered(n, { deliverAt: n % 2 === 0 ? 1 : Date.now() + HOUR_MS, condition: absent(t) }),
    );
    const results = await t.queue.publishMany(t.topic, inputs);
    const firing = firingOf(t);
    const outcomes = await Promise.all(results.map(({ id }) => firing.fire(id)));
    expect(outcomes.map(({ kind }) => kind)).toEqual(range(1, 250).map((n) => (n % 2 === 0 ? "fired" : "early")));
    expect((await appended(t)).map(({ n }) => n)).toEqual(range(1, 125).map((i) => 2 * i));
  });

  test("knows nothing of ids that are none", async () => {
    await using t = await openTestQueue("mq-delayed", { partitions: 1 });
    const { id } = await publishAt(t, await inAnHour(t));
    for (const wrong of ["", "x", id.replace(/0$/, "1"), `7${id.slice(1, 20)}-0`]) {
      expect(await firingOf(t).fire(wrong)).toEqual({ kind: "missing" });
      expect(await t.queue.delayed.cancel(wrong)).toBe("not_found");
      expect(await t.queue.delayed.move(wrong, Date.now())).toBe("not_found");
      expect(await t.queue.delayed.sendNow(wrong)).toBe("not_found");
      expect(await t.queue.delayed.get(wrong)).toBeUndefined();
    }
  });

  test("drops what has expired while it waited", async () => {
    await using t = await openTestQueue("mq-delayed", { partitions: 1 });
    const expireAt = (await redisNow(t.store)) + 50;
    const { id } = await publishAt(t, 1, { expireAt, condition: absent(t) });
    await untilAfter(t, expireAt);
    expect(await firingOf(t).fire(id)).toEqual({ kind: "dropped", reason: "expired" });
    expect(await t.queue.delayed.get(id)).toMatchObject({ state: "DROPPED", reason: "expired" });
    expect(await t.queue.delayed.cancel(id)).toBe("not_found");
    expect(await appended(t)).toEqual([]);
  });

  const absent = (t: TestQueue): Condition => ({ kind: "keyAbsent", key: t.queue.own("k", "answered").key });

  test.each([
    { name: "keyAbsent, absent", condition: {}, holds: true },
    { name: "keyAbsent, there", write: ["SET", "x", "1"], condition: {}, holds: false },
    {
      name: "keyEquals, equal",
      write: ["SET", "x", "ö \n1"],
      condition: { kind: "keyEquals", value: "ö \n1" },
      holds: true,
    },
    { name: "keyEquals, other", write: ["SET", "x", "2"], condition: { kind: "keyEquals", value: "1" }, holds: false },
    { name: "keyEquals, missing", condition: { kind: "keyEquals", value: "" }, holds: false },
    { name: "fieldBelow, below", write: ["HSET", "x", "ann", "m 1 0 6 9"], condition: below(4, 7), holds: true },
    { name: "fieldBelow, equal", write: ["HSET", "x", "ann", "m 1 0 7 9"], condition: below(4, 7), holds: false },
    { name: "fieldBelow, no number", write: ["HSET", "x", "ann", "m 1"], condition: below(1, 7), holds: false },
    { name: "fieldBelow, too few words", write: ["HSET", "x", "ann", "m 1"], condition: below(4, 7), holds: false },
    { name: "fieldBelow, missing field", write: ["HSET", "x", "bob", "1"], condition: below(1, 7), holds: false },
    { name: "fieldBelow, missing key", condition: below(1, 7), holds: false },
  ])("asks its condition: $name", async ({ write, condition, holds }) => {
    await using t = await openTestQueue("mq-delayed", { partitions: 1 });
    const { key } = t.queue.own("k", "x");
    if (write) await t.store.redis.commands.call(write[0]!, key, ...write.slice(2));
    const { id } = await publishDue(t, { kind: "keyAbsent", ...condition, key } as Condition);
    expect(await firingOf(t).fire(id)).toMatchObject(
      holds ? { kind: "fired" } : { kind: "dropped", reason: "condition" },
    );
    expect(await t.queue.delayed.get(id)).toMatchObject(
      holds ? { state: "FIRED" } : { state: "DROPPED", reason: "condition", condition: { key } },
    );
    expect((await appended(t)).length).toBe(holds ? 1 : 0);
  });

  function below(word: number, limit: number) {
    return { kind: "fieldBelow", field: "ann", word, limit } as const;
  }

  test("leaves alone what it cannot judge or append, and nothing else", async () => {
    await using t = await openTestQueue("mq-delayed", { partitions: 1 });
    const other = defineTopic("other", { schema: Numbered });
    const { commands } = t.store.redis;
    await commands.set(t.store.keys.topic("other", 0), "planted");
    await commands.hset(t.queue.own("k", "x").key, "a", "b");
    const results: PublishResult[] = await Promise.all([
      publishDue(t, { kind: "keyEquals", key: t.queue.own("k", "x").key, value: "1" }),
      publishDue(t, absent(t)),
    ]);
    await commands.del(t.store.keys.topic("other", 0));
    results.push(await t.queue.publish(other, numbered(3, { deliverAt: 1, condition: absent(t) })));
    await commands.set(t.store.keys.topic("other", 0), "planted");
    const firing = firingOf(t);
    const outcomes = await Promise.all(results.map(({ id }) => firing.fire(id)));
    expect(outcomes.map(({ kind }) => kind)).toEqual(["failed", "fired", "failed"]);
    expect((await t.queue.delayed.list()).messages.map(({ id }) => id).sort()).toEqual(
      [results[0]!.id, results[2]!.id].sort(),
    );
    await commands.del(t.store.keys.topic("other", 0), t.queue.own("k", "x").key);
    expect((await firing.fire(results[2]!.id)).kind).toBe("fired");
  });
});

describe("cancel, move and send now tell the truth", () => {
  test("of one that waits, that was fired, and that was cancelled", async () => {
    await using t = await openTestQueue("mq-delayed");
    const { delayed } = t.queue;
    const at = await inAnHour(t);
    const [cancelled, sent] = [await publishAt(t, at), await publishAt(t, at)];
    expect(await delayed.cancel(cancelled.id)).toBe("ok");
    expect(await delayed.cancel(cancelled.id)).toBe("ok");
    expect(await delayed.move(cancelled.id, at)).toBe("not_found");
    expect(await delayed.sendNow(cancelled.id)).toBe("not_found");
    expect(await delayed.get(cancelled.id)).toMatchObject({ state: "CANCELLED" });
    expect(await delayed.sendNow(sent.id)).toBe("ok");
    for (const answer of [delayed.sendNow(sent.id), delayed.cancel(sent.id), delayed.move(sent.id, at)]) {
      expect(await answer).toBe("already_fired");
    }
    expect((await appended(t)).length).toBe(1);
  });

  test("a moved one is due at its new time only, under the next version", async () => {
    await using t = await openTestQueue("mq-delayed", { partitions: 1 });
    const at = await inAnHour(t);
    const { id } = await publishAt(t, at);
    expect(await t.queue.delayed.move(id, at + 5)).toBe("ok");
    expect(await t.queue.delayed.move(id, at + 5)).toBe("ok");
    expect(await t.queue.delayed.get(id)).toMatchObject({ deliverAt: at + 5, version: 2, raw: '{"n":1}' });
    expect(await t.queue.delayed.move(id, 1)).toBe("ok");
    expect(await firingOf(t).fire(id)).toMatchObject({ kind: "fired" });
    expect((await refusal(t.queue.delayed.move(id, at + 41 * DAY_MS))).issues).toMatchObject([{ path: "at" }]);
    const told = await t.store.redis.commands.xrange(t.store.keys.topic("im.relay", 0), "-", "+");
    expect(told.map(([, [header]]) => header)).toEqual([1, 2, 3].map((version) => `${id}.${version} timer ${id}  `));
  });

  test("send now asks for no condition, and does not send what has expired", async () => {
    await using t = await openTestQueue("mq-delayed", { partitions: 1 });
    await t.store.redis.commands.set(t.queue.own("k", "x").key, "1");
    const expireAt = (await redisNow(t.store)) + 50;
    const condition: Condition = { kind: "keyAbsent", key: t.queue.own("k", "x").key };
    const [conditional, stale] = [
      await publishAt(t, expireAt + HOUR_MS, { condition }),
      await publishAt(t, 1, { expireAt, condition }),
    ];
    expect(await t.queue.delayed.sendNow(conditional.id)).toBe("ok");
    await untilAfter(t, expireAt);
    expect(await t.queue.delayed.sendNow(stale.id)).toBe("not_found");
    expect((await appended(t)).length).toBe(1);
  });
});

describe("the list of those that wait", () => {
  test("is ordered by due time over all partitions and read page by page, whatever ends meanwhile", async () => {
    await using t = await openTestQueue("mq-delayed");
    const at = await inAnHour(t);
    // Forty of them in one millisecond.
    const inputs = range(1, 100).map((n) => numbered(n, { key: `k${n}`, deliverAt: at + (n <= 40 ? 0 : n) }));
    const results = await t.queue.publishMany(t.topic, inputs);
    const pages: string[][] = [];
    let cursor: string | undefined;
    do {
      const page = await t.queue.delayed.list({ limit: 7, ...(cursor ? { cursor } : {}) });
      pages.push(page.messages.map(({ id }) => id));
      cursor = page.next;
      await t.queue.delayed.cancel(page.messages.at(-1)!.id);
    } while (cursor);
    const expected = [...results].sort((a, b) => a.deliverAt! - b.deliverAt! || (a.id < b.id ? -1 : 1));
    expect(pages.flat()).toEqual(expected.map(({ id }) => id));
    expect(pages.length).toBe(15);
  });

  test("is of one topic when asked so, however rare it is", async () => {
    await using t = await openTestQueue("mq-delayed", { partitions: 1 });
    const rare = defineTopic("rare", { schema: Numbered });
    const at = await inAnHour(t);
    await t.queue.publishMany(
      t.topic,
      range(1, 2_500).map((n) => numbered(n, { deliverAt: at + n })),
    );
    const { id } = await t.queue.publish(rare, numbered(1, { deliverAt: at + 3_000 }));
    const found: string[] = [];
    let cursor: string | undefined;
    let pages = 0;
    do {
      const page = await t.queue.delayed.list({ topic: "rare", ...(cursor ? { cursor } : {}) });
      found.push(...page.messages.map((message) => message.id));
      cursor = page.next;
      pages += 1;
    } while (cursor);
    expect(found).toEqual([id]);
    expect(pages).toBe(3);
  });

  test("refuses a limit or cursor that is none", async () => {
    await using t = await openTestQueue("mq-delayed");
    for (const limit of [0, 501, 1.5]) {
      expect(await refusal(t.queue.delayed.list({ limit }))).toMatchObject({
        code: "INVALID",
        issues: [{ path: "limit" }],
      });
    }
    expect(await refusal(t.queue.delayed.list({ cursor: "x" }))).toMatchObject({ issues: [{ path: "cursor" }] });
  });
});

describe("bounds", () => {
  test("so many wait in a partition and no more; duplicates and what is due are answered all the same", async () => {
    await using t = await openTestQueue("mq-delayed", { partitions: 1 });
    const at = await inAnHour(t);
    const first = await publishAt(t, at, { dedupId: "d" });
    const { commands } = t.store.redis;
    const full = 100_000 - 1;
    for (let done = 0; done < full; done += 9_999) {
      const members = range(1, Math.min(9_999, full - done)).flatMap((n) => [String(at), `planted-${done + n}`]);
      await commands.zadd(t.store.keys.delayedDue(0), ...members);
    }
    expect(await refusal(publishAt(t, at))).toMatchObject({ code: "RATE_LIMITED", retryAfterMs: 5_000 });
    expect(await publishAt(t, at, { dedupId: "d" })).toEqual({ ...first, duplicate: true });
    expect(await t.queue.delayed.cancel(first.id)).toBe("ok");
    expect((await publishAt(t, at)).deliverAt).toBe(at);
  });

  test("what is due already does not get past a full topic", async () => {
    const topic = defineTopic("t", { schema: Numbered, lengthMax: 2, backlogMax: 2 });
    await using t = await openTestQueue("mq-delayed", { partitions: 1, topic });
    await t.run(t.queue.consume(t.topic, { group: "g", mode: "ordered", handle: () => new Promise(() => undefined) }));
    await t.publish("k", 1, 2);
    expect(await refusal(publishAt(t, 1))).toMatchObject({ code: "RATE_LIMITED" });
    expect((await publishAt(t, await inAnHour(t))).entry).toBe("");
  });

  test("ended records are remembered for a day, and then forgotten", async () => {
    await using t = await openTestQueue("mq-delayed", { partitions: 1 });
    const { keys, redis } = t.store;
    const results = await Promise.all(range(1, 3).map(() => publishAt(t, 1)));
    const old = (await redisNow(t.store)) - DAY_MS;
    await redis.commands.zadd(keys.delayedEnded(0), old - 1_000, results[0]!.id, old + 60_000, results[1]!.id);
    const context = contextOf(t);
    await reconcile({ context, firing: firingOf(t), now: Date.now, restore: async () => undefined });
    expect(await t.queue.delayed.cancel(results[0]!.id)).toBe("not_found");
    expect(await t.queue.delayed.cancel(results[1]!.id)).toBe("already_fired");
    expect(await redis.commands.hlen(keys.delayed(0))).toBe(2);
  });
});

describe("the reconciler", () => {
  test("fires what is overdue, in order, though no timer came", async () => {
    await using t = await openTestQueue("mq-delayed", { partitions: 2 });
    const now = await redisNow(t.store);
    const keys = range(1, 1_200).map((n) => ({ n, key: `k${n % 2}` }));
    // With a condition, what is due already when Redis hears of it waits for its firing, too.
    const condition = (key: string): Condition => ({ kind: "keyAbsent", key: t.queue.own(key, "answered").key });
    await t.queue.publishMany(
      t.topic,
      keys.map(({ n, key }) => numbered(n, { key, deliverAt: now + 1_000 + n, condition: condition(key) })),
    );
    const context = contextOf(t);
    const restored: string[] = [];
    const run = (aheadMs: number) =>
      reconcile({
        ...{ context, firing: firingOf(t), now: () => now + aheadMs },
        restore: async (timers) => {
          restored.push(...timers.map(({ record }) => record));
        },
      });
    await run(0);
    expect(new Set(restored).size).toBe(1_200);
    expect(await appended(t)).toEqual([]);
    await eventually(async () => {
      await run((await redisNow(t.store)) - now + 10_000);
      expect((await appended(t)).length).toBe(1_200);
    });
    for (const { at, n } of await appended(t)) expect(at).toBeGreaterThanOrEqual(now + 1_000 + n);
  });

  test("steps over what cannot be fired", async () => {
    await using t = await openTestQueue("mq-delayed", { partitions: 1 });
    const { key } = t.queue.own("k", "x");
    await t.store.redis.commands.hset(key, "a", "b");
    const now = await redisNow(t.store);
    await t.queue.publishMany(
      t.topic,
      range(1, 600).map((n) => numbered(n, { deliverAt: now, condition: { kind: "keyEquals", key, value: "1" } })),
    );
    await publishDue(t, { kind: "keyAbsent", key: t.queue.own("k", "y").key });
    await reconcile({
      context: contextOf(t),
      firing: firingOf(t),
      now: () => now + 60_000,
      restore: async () => undefined,
    });
    expect((await appended(t)).length).toBe(1);
  });
});
