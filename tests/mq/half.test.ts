/** Half messages: unseen before the commit, decided once whoever asks, and never silently gone. */

import { describe, expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { newPlacedId } from "../../lib/id.ts";
import { defineTopic, type HalfTimes, openQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { eventually } from "../support/eventually.ts";
import { digestOf, Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";
import { refusal } from "../support/refusal.ts";

const numbered = (n: number, more: { dedupId?: string; id?: string; key?: string } = {}) => ({
  type: "numbered",
  key: "k",
  data: { n },
  ...more,
});
const shop = { producerGroup: "shop" };
/** Used up at once: the next expire() finds it over. */
const OVER: Partial<HalfTimes> = { budgetMs: 0 };

async function entriesOf(t: TestQueue): Promise<string[]> {
  const { keys, redis } = t.store;
  const streams = range(0, keys.partitions - 1).map((partition) => keys.topic("t", partition));
  const entries = await Promise.all(streams.map((stream) => redis.commands.xrange(stream, "-", "+")));
  return entries.flat().map(([, fields]) => fields[1]!);
}

async function countOf(t: TestQueue, outcome: string): Promise<number> {
  const { values } = await t.store.metrics.halves.get();
  return values.find(({ labels }) => labels.outcome === outcome)?.value ?? 0;
}

async function expired(t: TestQueue, n = 1): Promise<string> {
  const { id } = await t.queue.transactions.prepare(t.topic, numbered(n), shop);
  await t.queue.transactions.expire();
  expect((await t.queue.transactions.get(id)).state).toBe("expired");
  return id;
}

describe("from prepare to its end", () => {
  test("no group sees a half before its commit; then it is a message like any other", async () => {
    await using t = await openTestQueue("mq-half");
    const { transactions } = t.queue;
    const seen: number[] = [];
    await t.run(
      t.queue.consume(t.topic, {
        ...{ group: "g", mode: "ordered" },
        handle({ id, data, tag, properties, sequence }) {
          seen.push(data.n);
          if (data.n === 1) expect([id, tag, properties, sequence]).toEqual([first.id, "vip", { a: "ü b" }, 7]);
        },
      }),
    );
    const more = { tag: "vip", properties: { a: "ü b" }, sequence: 7 };
    const first = await transactions.prepare(t.topic, { ...numbered(1), ...more }, shop);
    const second = await transactions.prepare(t.topic, numbered(2), shop);
    await t.publish("k", 3, 3);
    await eventually(() => expect(seen).toEqual([3]));
    const committed = await transactions.commit(first.id);
    expect(committed).toMatchObject({ state: "committed", messageId: first.id, duplicate: false });
    await transactions.rollback(second.id);
    await t.publish("k", 4, 4);
    await eventually(() => expect(seen).toEqual([3, 1, 4]));
    expect(await entriesOf(t)).toEqual(['{"n":3}', '{"n":1}', '{"n":4}']);
  });

  test("get and list tell what is undecided, with the message; of what is decided only the outcome is kept", async () => {
    await using t = await openTestQueue("mq-half");
    const { transactions } = t.queue;
    const checkUrl = "https://shop.example/checks?a=1";
    const half = await transactions.prepare(t.topic, numbered(1, { id: "order-7" }), { ...shop, checkUrl });
    const facts = { id: half.id, topic: "t", producerGroup: "shop", checkUrl, messageId: "order-7" };
    const details = await transactions.get(half.id);
    expect(details).toMatchObject({ ...facts, state: "prepared", checks: 0 });
    expect(details.message).toMatchObject({ id: "order-7", type: "numbered", key: "k", raw: '{"n":1}', entry: "" });
    expect(details.nextCheckAt).toBe(details.preparedAt + 10_000);
    expect(await transactions.list({ state: "prepared" })).toEqual({ halves: [half] });
    const { entry } = await transactions.commit(half.id);
    expect(await transactions.get(half.id)).toEqual({
      ...half,
      ...{ state: "committed", entry: entry!, duplicate: false },
    });
    expect(await transactions.list({ state: "prepared" })).toEqual({ halves: [] });
    const { keys, redis } = t.store;
    expect(await redis.commands.hkeys(keys.half(keys.partitionOf("k")))).toEqual([half.id]);
  });

  test("a message without a key goes to any partition", async () => {
    await using t = await openTestQueue("mq-half", { partitions: 16 });
    const partitions = new Set<string>();
    for (const n of range(1, 40)) {
      const { id } = await t.queue.transactions.prepare(t.topic, { type: "numbered", data: { n } }, shop);
      partitions.add(id.split("-")[1]!);
      await t.queue.transactions.commit(id);
    }
    expect(partitions.size).toBeGreaterThan(4);
    expect((await entriesOf(t)).length).toBe(40);
  });
});

describe("one decision", () => {
  test("the same again answers the same, the other one is refused with the state", async () => {
    await using t = await openTestQueue("mq-half");
    const { transactions } = t.queue;
    const [a, b] = [
      await transactions.prepare(t.topic, numbered(1), shop),
      await transactions.prepare(t.topic, numbered(2), shop),
    ];
    const committed = await transactions.commit(a.id);
    expect(await transactions.commit(a.id)).toEqual(committed);
    const rolledBack = await transactions.rollback(b.id);
    expect(await transactions.rollback(b.id)).toEqual(rolledBack);
    expect(await refusal(transactions.rollback(a.id))).toMatchObject({
      ...{ code: "CONFLICT", status: 409, state: "committed" },
    });
    expect(await refusal(transactions.commit(b.id))).toMatchObject({ code: "CONFLICT", state: "rolled_back" });
    expect(await entriesOf(t)).toEqual(['{"n":1}']);
    expect([await countOf(t, "committed"), await countOf(t, "rolled_back")]).toEqual([1, 1]);
  });

  test("of many at once one wins, and all learn which", async () => {
    await using t = await openTestQueue("mq-half");
    const members = [t.queue, t.member("n"), t.member("o")];
    let commits = 0;
    for (const n of range(1, 30)) {
      const { id } = await t.queue.transactions.prepare(t.topic, numbered(n), shop);
      const calls = range(0, 8).map((i) => {
        const { transactions } = members[i % 3]!;
        return (i + n) % 2 === 0 ? transactions.commit(id) : transactions.rollback(id);
      });
      const outcomes = await Promise.all(calls.map((call) => call.catch((error: AppError) => error)));
      const { state } = await t.queue.transactions.get(id);
      if (state === "committed") commits += 1;
      for (const outcome of outcomes) {
        if (outcome instanceof AppError) expect(outcome.code).toBe("CONFLICT");
        expect(outcome.state).toBe(state);
      }
    }
    expect((await entriesOf(t)).length).toBe(commits);
    expect(await countOf(t, "committed")).toBe(commits);
  });

  test("the topic's dedupe holds for commits: of two halves with one dedupId, and of a half and a publication", async () => {
    await using t = await openTestQueue("mq-half");
    const { transactions } = t.queue;
    const same = { dedupId: "order 7" };
    const first = await transactions.prepare(t.topic, numbered(1, same), shop);
    const second = await transactions.prepare(t.topic, numbered(2, same), shop);
    const committed = await transactions.commit(first.id);
    const again = await transactions.commit(second.id);
    expect(again).toMatchObject({ state: "committed", messageId: first.id, entry: committed.entry, duplicate: true });
    expect(await transactions.commit(second.id)).toEqual(again);
    const published = await t.queue.publish(t.topic, numbered(3, same));
    expect(published).toMatchObject({ id: first.id, duplicate: true });
    expect(await entriesOf(t)).toEqual(['{"n":1}']);
    const later = { dedupId: "order 8", deliverAt: Date.now() + 60_000 };
    const delayed = await t.queue.publish(t.topic, { ...numbered(4), ...later });
    const third = await transactions.prepare(t.topic, numbered(5, { dedupId: "order 8" }), shop);
    const repeated = await transactions.commit(third.id);
    expect(repeated).toMatchObject({ state: "committed", messageId: delayed.id, duplicate: true });
    expect(repeated.entry).toBeUndefined();
  });

  test("ids that are none, foreign or forgotten are NOT_FOUND", async () => {
    await using t = await openTestQueue("mq-half", { halfTimes: { endedMs: 0 } });
    const { transactions } = t.queue;
    const { id } = await transactions.prepare(t.topic, numbered(1), shop);
    await transactions.commit(id);
    await transactions.expire();
    for (const unknown of [id, "", "x", `${id}/message`, newPlacedId(1, 3), newPlacedId(1, 99)]) {
      for (const call of [transactions.commit, transactions.rollback, transactions.get, transactions.resume]) {
        expect((await refusal(call(unknown))).code).toBe("NOT_FOUND");
      }
    }
    const { keys, redis } = t.store;
    expect(await redis.commands.keys(`${keys.prefix}*half*`)).toEqual([]);
  });
});

describe("what nobody decided", () => {
  test("expires with its budget, is listed, and may still be decided either way", async () => {
    await using t = await openTestQueue("mq-half", { halfTimes: OVER });
    const { transactions } = t.queue;
    const [a, b] = [await expired(t, 1), await expired(t, 2)];
    expect(await countOf(t, "expired")).toBe(2);
    const { halves } = await transactions.list({ state: "expired" });
    expect(halves.map(({ id, state }) => [id, state])).toEqual([
      [a, "expired"],
      [b, "expired"],
    ]);
    expect((await transactions.get(a)).message?.raw).toBe('{"n":1}');
    expect((await transactions.commit(a)).state).toBe("committed");
    expect((await transactions.rollback(b)).state).toBe("rolled_back");
    expect(await transactions.list({ state: "expired" })).toEqual({ halves: [] });
    expect(await entriesOf(t)).toEqual(['{"n":1}']);
  });

  test("is given new checks by resume, once; what is decided is not resumed", async () => {
    await using t = await openTestQueue("mq-half", { halfTimes: OVER });
    const { transactions } = t.queue;
    const id = await expired(t);
    expect(await transactions.resume(id)).toMatchObject({ state: "prepared", checks: 0 });
    const { nextCheckAt } = await transactions.get(id);
    expect(await transactions.resume(id)).toMatchObject({ state: "prepared" });
    expect((await transactions.get(id)).nextCheckAt).toBe(nextCheckAt);
    expect(await countOf(t, "resumed")).toBe(1);
    await transactions.rollback(id);
    expect(await refusal(transactions.resume(id))).toMatchObject({ code: "CONFLICT", state: "rolled_back" });
  });

  test("is dropped after its days, and counted", async () => {
    await using t = await openTestQueue("mq-half", { halfTimes: { ...OVER, expiredMs: 0 } });
    const { id } = await t.queue.transactions.prepare(t.topic, numbered(1), shop);
    expect(await t.queue.transactions.expire()).toEqual({ expired: 1, dropped: 0 });
    expect(await t.queue.transactions.expire()).toEqual({ expired: 0, dropped: 1 });
    expect(await t.queue.transactions.expire()).toEqual({ expired: 0, dropped: 0 });
    expect((await refusal(t.queue.transactions.get(id))).code).toBe("NOT_FOUND");
    expect(await countOf(t, "dropped")).toBe(1);
    const { keys, redis } = t.store;
    expect(await redis.commands.keys(`${keys.prefix}*half*`)).toEqual([]);
  });

  test("ends in rounds: more than one script call takes", async () => {
    await using t = await openTestQueue("mq-half", { partitions: 2, halfTimes: OVER });
    const keys = range(1, 500).map((n) => `k${n}`);
    await Promise.all(keys.map((key, n) => t.queue.transactions.prepare(t.topic, numbered(n, { key }), shop)));
    expect(await t.queue.transactions.expire()).toEqual({ expired: 500, dropped: 0 });
    const ids = new Set<string>();
    let cursor: string | undefined;
    do {
      const page = await t.queue.transactions.list({ state: "expired", limit: 33, ...(cursor && { cursor }) });
      expect(page.halves.length).toBeLessThanOrEqual(33);
      for (const { id } of page.halves) ids.add(id);
      cursor = page.next;
    } while (cursor !== undefined);
    expect(ids.size).toBe(500);
  });
});

describe("limits", () => {
  test("what does not fit is refused with its field, and nothing is kept", async () => {
    await using t = await openTestQueue("mq-half");
    const { transactions } = t.queue;
    const pathsOf = async (call: Promise<unknown>) => (await refusal(call)).issues!.map(({ path }) => path);
    const prepare = (options: object) => transactions.prepare(t.topic, numbered(1), { ...shop, ...options });
    expect(await pathsOf(prepare({ producerGroup: "#http" }))).toEqual(["producerGroup"]);
    expect(await pathsOf(prepare({ producerGroup: "" }))).toEqual(["producerGroup"]);
    for (const firstCheckMs of [-1, 0.5, 3_600_001]) {
      expect(await pathsOf(prepare({ firstCheckMs }))).toEqual(["firstCheckMs"]);
    }
    const urls = ["shop", "ftp://shop/", "https://a:b@shop/", "https://shop/ x", `https://shop/${"x".repeat(1_024)}`];
    for (const checkUrl of urls) expect(await pathsOf(prepare({ checkUrl }))).toEqual(["checkUrl"]);
    const wrong = { type: "numbered", key: "k", data: { n: "1" } } as unknown as ReturnType<typeof numbered>;
    expect(await pathsOf(transactions.prepare(t.topic, wrong, shop))).toEqual(["data.n"]);
    expect(await pathsOf(transactions.prepare(t.topic, numbered(1, { key: "a b" }), shop))).toEqual(["key"]);
    expect(await pathsOf(transactions.prepare(t.topic, { ...numbered(1), deliverAt: 1 }, shop))).toEqual(["deliverAt"]);
    for (const limit of [0, 201, 1.5]) {
      expect(await pathsOf(transactions.list({ state: "prepared", limit }))).toEqual(["limit"]);
    }
    for (const cursor of ["", "x", "99.1.A", "0.1", "0.-1.A"]) {
      expect(await pathsOf(transactions.list({ state: "prepared", cursor }))).toEqual(["cursor"]);
    }
    expect(await digestOf(t.store)).toEqual({});
  });

  test("2 000 undecided ones fill a partition; a decision makes room", async () => {
    await using t = await openTestQueue("mq-half", { partitions: 1 });
    const { transactions } = t.queue;
    const halves = await Promise.all(range(1, 2_000).map((n) => transactions.prepare(t.topic, numbered(n), shop)));
    expect(await refusal(transactions.prepare(t.topic, numbered(0), shop))).toMatchObject({
      ...{ code: "RATE_LIMITED", retryAfterMs: 1_000 },
    });
    await transactions.rollback(halves[7]!.id);
    await transactions.prepare(t.topic, numbered(0), shop);
  });

  test("a topic that is full takes no half, but what was prepared is committed", async () => {
    const topic = defineTopic("t", { schema: Numbered, lengthMax: 3, backlogMax: 3 });
    await using t = await openTestQueue("mq-half", { partitions: 1, topic });
    const service = await t.run(
      t.queue.consume(t.topic, { group: "g", mode: "ordered", handle: () => Promise.reject(new Error("no")) }),
    );
    await service.stop(AbortSignal.abort());
    const { transactions } = t.queue;
    const half = await transactions.prepare(t.topic, numbered(0), shop);
    await t.publish("k", 1, 3);
    const error = await refusal(transactions.prepare(t.topic, numbered(4), shop));
    expect(error).toMatchObject({ code: "RATE_LIMITED", message: expect.stringContaining("topic t is full") });
    expect((await refusal(t.queue.publishWith(t.topic, numbered(4), []))).code).toBe("RATE_LIMITED");
    expect((await transactions.commit(half.id)).state).toBe("committed");
    expect((await entriesOf(t)).length).toBe(4);
  });

  test("the layer rules are asked before anything is kept", async () => {
    await using t = await openTestQueue("mq-half");
    const { redis, keys, metrics } = t.store;
    const may = {
      publish: () => {
        throw new AppError("LAYER_VIOLATION", "not you");
      },
      consume: () => undefined,
    };
    const queue = openQueue({ redis, keys, metrics, clock: systemClock, log: silentLog, member: "n", may });
    expect((await refusal(queue.transactions.prepare(t.topic, numbered(1), shop))).code).toBe("LAYER_VIOLATION");
    expect(await digestOf(t.store)).toEqual({});
  });
});
