import { expect, test } from "bun:test";
import { type Clock, systemClock } from "../../lib/clock.ts";
import type { ConsumeOptions, Message } from "../../lib/mq/index.ts";
import { lostBehind } from "../../lib/mq/stream.ts";
import { eventually } from "../support/eventually.ts";
import { byKey, digestOf, type Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";

const soft = () => AbortSignal.timeout(20_000);
const KEYS = ["a", "b", "c"];

async function listen(t: TestQueue, member: string, options: Partial<ConsumeOptions<Numbered>> = {}) {
  const seen: Message<Numbered>[] = [];
  const handle = (message: Message<Numbered>) => seen.push(message);
  const all = { group: "g", mode: "broadcast", handle, ...options } as ConsumeOptions<Numbered>;
  const service = await t.run(t.member(member).consume(t.topic, all));
  return { seen, service };
}

test("every instance sees every message from its start on, in the order of its key, and nothing is written", async () => {
  await using t = await openTestQueue("mq-broadcast");
  for (const key of KEYS) await t.publish(key, 1, 100);
  const before = await digestOf(t.store);
  const first = await listen(t, "a", { start: "first" });
  const latest = await listen(t, "b");
  await eventually(() => expect(first.seen.length).toBe(300));
  expect(await digestOf(t.store)).toEqual(before);
  for (const key of KEYS) await t.publish(key, 101, 200);
  await eventually(() => expect([first.seen.length, latest.seen.length]).toEqual([600, 300]));
  expect(byKey(first.seen)).toEqual(Object.fromEntries(KEYS.map((key) => [key, range(1, 200)])));
  expect(byKey(latest.seen)).toEqual(Object.fromEntries(KEYS.map((key) => [key, range(101, 200)])));
  expect((await t.queue.describe(t.topic)).groups).toEqual([]);
});

test("a start in the past begins there, at an entry or a time", async () => {
  await using t = await openTestQueue("mq-broadcast", { partitions: 1 });
  await t.publish("k", 1, 5);
  await Bun.sleep(2);
  await t.publish("k", 6, 9);
  const entries = await t.store.redis.commands.xrange(t.store.keys.topic("t", 0), "-", "+");
  const [id] = entries[5]!;
  const byId = await listen(t, "a", { start: { id } });
  const byTime = await listen(t, "b", { start: { time: Number(id.split("-")[0]) } });
  await eventually(() => expect(byKey(byId.seen)).toEqual({ k: range(6, 9) }));
  await eventually(() => expect(byKey(byTime.seen)).toEqual({ k: range(6, 9) }));
});

test("what its handler throws at, what is invalid, expired, or of another tag, does not come (again)", async () => {
  await using t = await openTestQueue("mq-broadcast", { partitions: 1 });
  const seen: number[] = [];
  await listen(t, "a", {
    tags: ["vip"],
    handle({ data }) {
      seen.push(data.n);
      if (data.n === 1) throw new Error("no");
    },
  });
  const message = (n: number) => ({ type: "a", key: "k", tag: "vip", data: { n } });
  await t.queue.publish(t.topic, message(1));
  await t.queue.publish(t.topic, { type: "a", key: "k", tag: "vip", raw: '{"n":"two"}' });
  await t.queue.publish(t.topic, { ...message(3), expireAt: 1 });
  await t.queue.publish(t.topic, { ...message(4), tag: "poor" });
  await t.queue.publish(t.topic, message(5));
  await eventually(() => expect(seen).toEqual([1, 5]));
  const value = async (name: "delivered" | "acked" | "expired") => {
    const { values } = await t.store.metrics[name].get();
    return values[0]?.value;
  };
  expect([await value("delivered"), await value("acked"), await value("expired")]).toEqual([2, 1, 1]);
});

test("batches are of one partition, one at a time", async () => {
  await using t = await openTestQueue("mq-broadcast", { partitions: 1 });
  const batches: number[][] = [];
  let inHand = 0;
  const service = await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "broadcast", start: "first", batchMax: 40 },
      async handleBatch(messages) {
        inHand += 1;
        expect(inHand).toBe(1);
        await Bun.sleep(1);
        batches.push(messages.map(({ data }) => data.n));
        inHand -= 1;
      },
    }),
  );
  await t.publish("k", 1, 200);
  await eventually(() => expect(batches.flat()).toEqual(range(1, 200)));
  expect(batches.every(({ length }) => length <= 80)).toBe(true);
  await service.stop(soft());
});

test("stop finishes what is in hand and hands out no more; stopped hard, the handler is told", async () => {
  await using t = await openTestQueue("mq-broadcast", { partitions: 1 });
  const gate = Promise.withResolvers<void>();
  const events: string[] = [];
  const options: Partial<ConsumeOptions<Numbered>> = {
    async handle({ data }, { signal }) {
      events.push(`in hand ${data.n}`);
      signal.addEventListener("abort", () => gate.resolve());
      await gate.promise;
      events.push(`done ${data.n}`);
    },
  };
  const { service } = await listen(t, "a", options);
  await t.publish("k", 1, 3);
  await eventually(() => expect(events).toEqual(["in hand 1"]));
  await service.stop(AbortSignal.timeout(50));
  await eventually(() => expect(events).toEqual(["in hand 1", "done 1"]));
});

test("it holds back no trimming; what was trimmed before it was read is counted", async () => {
  const clock: Clock = { ...systemClock, sleep: (ms, signal) => systemClock.sleep(Math.min(ms, 30), signal) };
  await using t = await openTestQueue("mq-broadcast", { partitions: 1, clock });
  const gate = Promise.withResolvers<void>();
  const seen: number[] = [];
  let isInHand = false;
  await listen(t, "a", {
    batchMax: 1,
    async handle({ data }) {
      isInHand = true;
      await gate.promise;
      seen.push(data.n);
    },
  });
  await t.publish("k", 1, 1);
  // A reader that is still connecting would find all of them gone.
  await eventually(() => expect(isInHand).toBe(true));
  for (const n of range(2, 10)) await t.publish("k", n, n);
  await t.store.redis.commands.xtrim(t.store.keys.topic("t", 0), "MAXLEN", 0);
  gate.resolve();
  const lost = async () => (await t.store.metrics.lostByTrim.get()).values[0]?.value ?? 0;
  await eventually(async () => expect([seen.length > 0, seen.length + (await lost())]).toEqual([true, 10]));
});

test("a loss is told from where the reader stands and how much it counted", () => {
  const facts = { length: 4, added: 10, first: "7-0", last: "10-0" };
  expect(lostBehind(facts, "6-0", 6)).toBe(0);
  expect(lostBehind(facts, "4-0", 4)).toBe(2);
  expect(lostBehind(facts, "8-0", 6)).toBe(0);
  expect(lostBehind(facts, "10-0", 8)).toBe(2);
});
