import { expect, test } from "bun:test";
import type { ConsumeOptions, Message } from "../../lib/mq/index.ts";
import { eventually } from "../support/eventually.ts";
import { byKey, keysOfOnePartition, type Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";

const soft = () => AbortSignal.timeout(20_000);
const hard = () => AbortSignal.abort();
/** Of a holder that crashes: its successor waits for the end of it. */
const CRASH_LEASE_MS = 1_000;

interface Scene {
  readonly seen: Message<Numbered>[];
  /** Keys whose messages fail. */
  readonly failing: Set<string>;
  options(overrides?: Partial<ConsumeOptions<Numbered>>): ConsumeOptions<Numbered>;
}

/** A group "g" whose handler fails for some keys and remembers what it finished. */
function setScene(): Scene {
  const seen: Message<Numbered>[] = [];
  const failing = new Set<string>();
  return {
    seen,
    failing,
    options: (overrides = {}) =>
      ({
        ...{ group: "g", mode: "ordered", backoff: [5] },
        handle(message: Message<Numbered>) {
          if (failing.has(message.key)) throw new Error("not now");
          seen.push(message);
        },
        ...overrides,
      }) as ConsumeOptions<Numbered>,
  };
}

const standing = async (t: TestQueue) => (await t.queue.describe(t.topic)).groups[0]!;

test.serial(
  "one of a hundred keys that always fails: the others go on, and its 3 000 successors hold neither window nor trimming",
  async () => {
    await using t = await openTestQueue("mq-side", { partitions: 1 });
    const { seen, failing, options } = setScene();
    failing.add("bad");
    await t.run(t.queue.consume(t.topic, options({ onPoison: "block" })));
    await t.publish("bad", 1, 3_000);
    for (const n of range(1, 99)) await t.publish(`k${n}`, 1, 20);
    await eventually(() => expect(seen.length).toBe(99 * 20));
    expect(byKey(seen)).toEqual(Object.fromEntries(range(1, 99).map((n) => [`k${n}`, range(1, 20)])));
    await eventually(async () =>
      expect(await standing(t)).toMatchObject({ sideMessages: 3_000, parkedKeys: 0, lag: 3_000 }),
    );
    expect(await t.queue.trim({ name: "t", retentionMs: 1, lengthMax: 1, dedupMs: 1, backlogMax: 10 })).toBeGreaterThan(
      4_000,
    );
    failing.delete("bad");
    await eventually(() => expect(byKey(seen).bad).toEqual(range(1, 3_000)));
    await t.publish("bad", 3_001, 3_010);
    await eventually(() => expect(byKey(seen).bad).toEqual(range(1, 3_010)));
    await eventually(async () => expect(await standing(t)).toMatchObject({ sideMessages: 0, lag: 0, open: 0 }));
  },
);

test("a parked key waits with all that comes for it, and after unpark goes on in order, with all its attempts", async () => {
  await using t = await openTestQueue("mq-side");
  const { seen, failing, options } = setScene();
  const [bad, good] = keysOfOnePartition(t.store.keys.partitionOf, 2) as [string, string];
  failing.add(bad);
  await t.run(t.queue.consume(t.topic, options({ onPoison: "park", maxAttempts: 3 })));
  await t.publish(bad, 1, 5);
  await t.publish(good, 1, 5);
  await eventually(async () => expect(await standing(t)).toMatchObject({ parkedKeys: 1, sideMessages: 5 }));
  await t.publish(bad, 6, 10);
  await eventually(async () => expect(await standing(t)).toMatchObject({ sideMessages: 10 }));
  expect(byKey(seen)).toEqual({ [good]: range(1, 5) });
  const [record, ...others] = await t.queue.aside.list(t.topic, "g");
  expect(others).toEqual([]);
  expect(record).toMatchObject({ key: bad, state: "parked", failed: 3, messages: 10 });
  expect(record!.history.map(([, member, error]) => [member, error])).toEqual(
    Array.from({ length: 3 }, () => ["m", "Error: not now"]),
  );
  failing.delete(bad);
  expect(await t.queue.aside.unpark(t.topic, "g", good)).toBe("not_found");
  const unparking = t.queue.aside.unpark(t.topic, "g", bad);
  await t.publish(bad, 11, 300);
  expect(await unparking).toBe("ok");
  expect(await t.queue.aside.unpark(t.topic, "g", bad)).toBe("not_found");
  await t.publish(bad, 301, 310);
  await eventually(() => expect(byKey(seen)[bad]).toEqual(range(1, 310)));
  expect(seen.find(({ key }) => key === bad)).toMatchObject({ attempt: 1 });
  await eventually(async () => expect(await standing(t)).toMatchObject({ parkedKeys: 0, sideMessages: 0, lag: 0 }));
  expect(await t.deadLetters("g")).toEqual([]);
});

test("a key that fails again after unpark is parked again, behind what it finished", async () => {
  await using t = await openTestQueue("mq-side");
  const seen: number[] = [];
  const broken = new Set([2, 4]);
  const { options } = setScene();
  await t.run(
    t.queue.consume(
      t.topic,
      options({
        ...{ onPoison: "park", maxAttempts: 2 },
        handle({ data }) {
          if (broken.has(data.n)) throw new Error("broken");
          seen.push(data.n);
        },
      }),
    ),
  );
  await t.publish("k", 1, 6);
  for (const n of [2, 4]) {
    await eventually(async () => expect(await standing(t)).toMatchObject({ parkedKeys: 1, sideMessages: 7 - n }));
    expect(seen).toEqual(range(1, n - 1));
    broken.delete(n);
    expect(await t.queue.aside.unpark(t.topic, "g", "k")).toBe("ok");
  }
  await eventually(() => expect(seen).toEqual(range(1, 6)));
});

test("a message without a key is parked under its entry, and unparked by it", async () => {
  await using t = await openTestQueue("mq-side");
  const { seen, failing, options } = setScene();
  failing.add("");
  await t.run(t.queue.consume(t.topic, options({ onPoison: "park", maxAttempts: 1 })));
  const { entry } = await t.queue.publish(t.topic, { type: "a", data: { n: 1 } });
  await eventually(async () => expect(await t.queue.aside.list(t.topic, "g")).toMatchObject([{ key: entry }]));
  failing.clear();
  expect(await t.queue.aside.unpark(t.topic, "g", entry)).toBe("ok");
  await eventually(() => expect(seen.length).toBe(1));
});

test("skip buries what used up its attempts, also from aside, and the key goes on", async () => {
  await using t = await openTestQueue("mq-side", { partitions: 1 });
  const seen: number[] = [];
  const { options } = setScene();
  await t.run(
    t.queue.consume(
      t.topic,
      options({
        maxAttempts: 4,
        handle({ data }) {
          if (data.n === 700) throw new Error("never");
          seen.push(data.n);
        },
      }),
    ),
  );
  await t.publish("k", 1, 2_000);
  await eventually(() => expect(seen).toEqual(range(1, 2_000).filter((n) => n !== 700)));
  await eventually(async () => expect(await t.deadLetters("g")).toHaveLength(1));
  const [letter] = await t.deadLetters("g");
  expect(letter).toMatchObject({ d: '{"n":700}', reason: "attempts", attempts: "4" });
  expect(JSON.parse(letter!.history!)).toHaveLength(4);
});

test("park is refused where a key cannot stand aside by itself", async () => {
  await using t = await openTestQueue("mq-side");
  const consume = (options: Partial<ConsumeOptions<Numbered>>) => () =>
    t.queue.consume(t.topic, { group: "g", mode: "ordered", onPoison: "park", ...options } as ConsumeOptions<Numbered>);
  expect(consume({ handleBatch: () => undefined })).toThrow("onPoison park is for ordered groups with single handlers");
  expect(consume({ handle: () => undefined, mode: "concurrent" })).toThrow("onPoison park is for ordered groups");
});

test("keys aside survive the crash and the stop of their holder, with their attempts", async () => {
  await using t = await openTestQueue("mq-side");
  const { seen, failing, options } = setScene();
  failing.add("bad");
  const parking = { onPoison: "park", maxAttempts: 2 } as const;
  const first = await t.run(t.queue.consume(t.topic, options({ ...parking, leaseMs: CRASH_LEASE_MS })));
  await t.publish("bad", 1, 3);
  await eventually(async () => expect(await standing(t)).toMatchObject({ parkedKeys: 1, sideMessages: 3 }));
  await first.stop(hard());
  await t.publish("bad", 4, 6);
  const second = await t.run(t.member("other").consume(t.topic, options(parking)));
  await eventually(async () => expect(await standing(t)).toMatchObject({ parkedKeys: 1, sideMessages: 6 }));
  await second.stop(soft());
  expect(seen).toEqual([]);
  failing.clear();
  expect(await t.queue.aside.unpark(t.topic, "g", "bad")).toBe("ok");
  await t.publish("bad", 7, 9);
  await t.run(t.queue.consume(t.topic, options(parking)));
  await eventually(() => expect(byKey(seen)).toEqual({ bad: range(1, 9) }));
});

test("a holder that crashes while it hands out what stood aside leaves it to the next, in order", async () => {
  await using t = await openTestQueue("mq-side");
  const { options } = setScene();
  const seen: number[] = [];
  const [inHand, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  let isBroken = true;
  const handle = async ({ data }: Message<Numbered>) => {
    if (isBroken) throw new Error("broken");
    if (data.n === 30) {
      inHand.resolve();
      await gate.promise;
    }
    seen.push(data.n);
  };
  const crashing = await t.run(
    t.queue.consume(t.topic, options({ onPoison: "park", maxAttempts: 1, leaseMs: CRASH_LEASE_MS, handle })),
  );
  await t.publish("k", 1, 50);
  await eventually(async () => expect(await standing(t)).toMatchObject({ sideMessages: 50 }));
  isBroken = false;
  await t.queue.aside.unpark(t.topic, "g", "k");
  // It may have been handed some of them again, should it have stood still for as long as its lease.
  await eventually(() => expect([...new Set(seen)]).toEqual(range(1, 29)));
  await inHand.promise;
  await crashing.stop(hard());
  gate.resolve();
  const attempts: number[] = [];
  await t.publish("k", 51, 60);
  const before = seen.length;
  expect(before).toBeGreaterThanOrEqual(30);
  await t.run(
    t.member("other").consume(
      t.topic,
      options({
        handle({ data, attempt }) {
          attempts.push(attempt);
          seen.push(data.n);
        },
      }),
    ),
  );
  await eventually(() => expect(seen.at(-1)).toBe(60));
  // What the first had finished and not committed comes again; nothing is left out, nothing comes before its predecessor.
  const again = seen.slice(before);
  expect(again).toEqual(range(again[0]!, 60));
  expect(again[0]).toBeLessThanOrEqual(31);
  expect(new Set(attempts)).toEqual(new Set([1]));
});

test("a hand-over of keys in hand costs no attempt and loses no time", async () => {
  await using t = await openTestQueue("mq-side");
  const { failing, options } = setScene();
  const gate = Promise.withResolvers<void>();
  const handed: [number, number][] = [];
  const handle = async ({ key, data, attempt }: Message<Numbered>) => {
    if (failing.has(key)) throw new Error("not now");
    handed.push([data.n, attempt]);
    if (data.n === 2) await gate.promise;
  };
  failing.add("k");
  const first = await t.run(
    t.queue.consume(t.topic, options({ onPoison: "park", maxAttempts: 1, leaseMs: 60_000, handle })),
  );
  await t.publish("k", 1, 4);
  await eventually(async () => expect(await standing(t)).toMatchObject({ parkedKeys: 1 }));
  failing.clear();
  await t.queue.aside.unpark(t.topic, "g", "k");
  await eventually(() => expect(handed).toHaveLength(2));
  const stopping = first.stop(soft());
  const members = t.store.keys.groupMembers("t", "g");
  await eventually(async () => expect(await t.store.redis.commands.hexists(members, "m")).toBe(0));
  gate.resolve();
  await stopping;
  expect(await t.queue.aside.list(t.topic, "g")).toMatchObject([{ state: "ready", failed: 0, losses: 0, messages: 2 }]);
  await t.run(t.member("other").consume(t.topic, options({ leaseMs: 60_000, handle })));
  await eventually(() => expect(handed).toEqual(range(1, 4).map((n) => [n, 1])));
});

test("what failed in the window keeps its attempts and their history over a takeover", async () => {
  await using t = await openTestQueue("mq-side");
  const { options } = setScene();
  const fail = () => {
    throw new Error("not now");
  };
  const first = await t.run(t.queue.consume(t.topic, options({ backoff: [30_000], handle: fail })));
  await t.publish("k", 1, 1);
  await eventually(async () => expect((await t.store.metrics.retried.get()).values[0]!.value).toBe(1));
  await first.stop(soft());
  await t.run(t.member("other").consume(t.topic, options({ backoff: [1], maxAttempts: 3, handle: fail })));
  await eventually(async () => expect(await t.deadLetters("g")).toHaveLength(1));
  const [letter] = await t.deadLetters("g");
  expect(letter).toMatchObject({ attempts: "3" });
  const history = JSON.parse(letter!.history!) as [number, string, string][];
  expect(history.map(([, member]) => member)).toEqual(["m", "other", "other"]);
  expect(Number(letter!.first)).toBe(history[0]![0]);
  expect(await t.store.redis.commands.exists(t.store.keys.attempts("t", t.store.keys.partitionOf("k"), "g"))).toBe(0);
});

test("a batch handler is given what stood aside before it came, and in order", async () => {
  await using t = await openTestQueue("mq-side");
  const { failing, options } = setScene();
  const [bad, good] = keysOfOnePartition(t.store.keys.partitionOf, 2) as [string, string];
  failing.add(bad);
  const single = await t.run(t.queue.consume(t.topic, options({ onPoison: "park", maxAttempts: 1 })));
  await t.publish(bad, 1, 20);
  await eventually(async () => expect(await standing(t)).toMatchObject({ sideMessages: 20 }));
  await single.stop(soft());
  const seen: Message<Numbered>[] = [];
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered", backoff: [1] },
      handleBatch: (messages) => seen.push(...messages),
    }),
  );
  await t.publish(bad, 21, 30);
  await t.publish(good, 1, 30);
  await eventually(() => expect(byKey(seen)).toEqual({ [good]: range(1, 30) }));
  await t.queue.aside.unpark(t.topic, "g", bad);
  await eventually(() => expect(byKey(seen)[bad]).toEqual(range(1, 30)));
  await eventually(async () => expect(await standing(t)).toMatchObject({ sideMessages: 0, lag: 0 }));
  await t.publish(bad, 31, 40);
  await eventually(() => expect(byKey(seen)[bad]).toEqual(range(1, 40)));
});
