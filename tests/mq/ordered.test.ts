import { expect, test } from "bun:test";
import { InFlight } from "../../lib/mq/in-flight.ts";
import { Bury, Later, type Message } from "../../lib/mq/index.ts";
import { eventually } from "../support/eventually.ts";
import { byKey, keysOfOnePartition, type Numbered, openTestQueue, range } from "../support/queue.ts";

const soft = () => AbortSignal.timeout(5_000);
/** Retries of tests come at once. */
const AT_ONCE = [1];

test("every key is handled in order, and every message once", async () => {
  await using t = await openTestQueue("mq-ordered");
  const seen: Message<Numbered>[] = [];
  for (const key of ["a", "b", "c"]) await t.publish(key, 1, 200);
  await t.run(t.queue.consume(t.topic, { group: "g", mode: "ordered", handle: (message) => seen.push(message) }));
  for (const key of ["a", "b", "c"]) await t.publish(key, 201, 300);
  await eventually(() => expect(seen.length).toBe(900));
  expect(byKey(seen)).toEqual({ a: range(1, 300), b: range(1, 300), c: range(1, 300) });
});

test("a key that fails holds its successors and nobody else's", async () => {
  await using t = await openTestQueue("mq-ordered");
  const [bad, good] = keysOfOnePartition(t.store.keys.partitionOf, 2) as [string, string];
  const seen: Message<Numbered>[] = [];
  const handed: string[] = [];
  let isBroken = true;
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered", backoff: [5], maxAttempts: Number.POSITIVE_INFINITY },
      handle(message) {
        handed.push(`${message.key} ${message.data.n}`);
        if (message.key === bad && message.data.n === 2 && isBroken) throw new Error("broken");
        seen.push(message);
      },
    }),
  );
  await t.publish(bad, 1, 3);
  await t.publish(good, 1, 100);
  await eventually(() => expect(byKey(seen)[good]).toEqual(range(1, 100)));
  expect(byKey(seen)[bad]).toEqual([1]);
  expect(handed).not.toContain(`${bad} 3`);
  isBroken = false;
  await eventually(() => expect(byKey(seen)[bad]).toEqual([1, 2, 3]));
});

test("a message that uses up its attempts is buried with its history, and its key goes on", async () => {
  await using t = await openTestQueue("mq-ordered");
  const attempts: number[] = [];
  const seen: number[] = [];
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered", backoff: AT_ONCE, maxAttempts: 3 },
      handle({ data, attempt }) {
        if (data.n !== 2) seen.push(data.n);
        else {
          attempts.push(attempt);
          throw new TypeError("no such order");
        }
      },
    }),
  );
  await t.publish("k", 1, 3);
  await eventually(async () => expect(await t.deadLetters("g")).toHaveLength(1));
  expect(attempts).toEqual([1, 2, 3]);
  await eventually(() => expect(seen).toEqual([1, 3]));
  const [letter] = await t.deadLetters("g");
  expect(letter).toMatchObject({ k: "k", d: '{"n":2}', t: "numbered", reason: "attempts", attempts: "3", member: "m" });
  expect(letter!.error).toBe("TypeError: no such order");
  expect(Number(letter!.first)).toBeGreaterThan(0);
  expect((await t.queue.describe(t.topic)).groups[0]).toMatchObject({ lag: 0, deadLetters: 1 });
});

test("Bury buries at once, Later comes again and counts no attempt", async () => {
  await using t = await openTestQueue("mq-ordered");
  const seen: [number, number][] = [];
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered", backoff: AT_ONCE },
      handle({ data, attempt }) {
        seen.push([data.n, attempt]);
        if (data.n === 1) throw new Bury("hopeless");
        if (data.n === 2 && seen.length < 6) throw new Later(1);
      },
    }),
  );
  await t.publish("k", 1, 3);
  await eventually(() => expect(seen.at(-1)).toEqual([3, 1]));
  expect(seen.filter(([n]) => n === 2)).toEqual(Array.from({ length: 5 }, () => [2, 1]));
  await eventually(async () => expect(await t.deadLetters("g")).toMatchObject([{ d: '{"n":1}', reason: "bury" }]));
});

test("what does not fit the schema is buried with its issues and reaches no handler; foreign entries too", async () => {
  await using t = await openTestQueue("mq-ordered", { partitions: 1 });
  const seen: number[] = [];
  await t.queue.publishMany(t.topic, [
    { type: "a", key: "k", raw: '{"n":1}' },
    { type: "a", key: "k", raw: '{"n":"one"}' },
    { type: "a", key: "k", raw: "{" },
  ]);
  await t.store.redis.commands.xadd(t.store.keys.topic("t", 0), "*", "some", "thing");
  await t.publish("k", 2, 2);
  for (const [group, handler] of [
    ["single", { handle: ({ data }: Message<Numbered>) => seen.push(data.n) }],
    ["batch", { handleBatch: (batch: readonly Message<Numbered>[]) => seen.push(...batch.map(({ data }) => data.n)) }],
  ] as const) {
    seen.length = 0;
    await t.run(t.queue.consume(t.topic, { group, mode: "ordered", ...handler }));
    await eventually(async () => expect(await t.deadLetters(group)).toHaveLength(3));
    expect(seen).toEqual([1, 2]);
    const letters = await t.deadLetters(group);
    expect(letters.map(({ reason }) => reason)).toEqual(["invalid", "invalid", "invalid"]);
    expect(letters.find(({ d }) => d === '{"n":"one"}')!.error).toContain("data.n");
    expect(letters.find(({ d }) => d === "{")!.error).toContain("is not JSON");
    expect(letters.find(({ d }) => d === '["some","thing"]')!.error).toContain("not have the header");
  }
});

test("a batch that fails is repeated in place, in order", async () => {
  await using t = await openTestQueue("mq-ordered", { partitions: 1 });
  const batches: number[][] = [];
  let failures = 2;
  await t.publish("k", 1, 50);
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered", backoff: AT_ONCE, batchMax: 20 },
      handleBatch(messages) {
        if (failures-- > 0) throw new Error("store away");
        batches.push(messages.map(({ data }) => data.n));
      },
    }),
  );
  await eventually(() => expect(batches.flat()).toEqual(range(1, 50)));
  expect(batches[0]).toEqual(range(1, 20));
  expect(await t.deadLetters("g")).toEqual([]);
});

test("after three failures of a batch its poison message stands alone and is buried; the others are handled in order", async () => {
  await using t = await openTestQueue("mq-ordered", { partitions: 1 });
  const seen: number[] = [];
  let batchFailures = 0;
  await t.publish("k", 1, 20);
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered", backoff: AT_ONCE, maxAttempts: 5 },
      handleBatch(messages) {
        if (messages.some(({ data }) => data.n === 7)) {
          if (messages.length > 1) batchFailures += 1;
          throw new Error("poison");
        }
        seen.push(...messages.map(({ data }) => data.n));
      },
    }),
  );
  await t.publish("k", 21, 40);
  await eventually(() => expect(seen).toEqual(range(1, 40).filter((n) => n !== 7)));
  expect(batchFailures).toBe(3);
  await eventually(async () => expect(await t.deadLetters("g")).toMatchObject([{ d: '{"n":7}', attempts: "5" }]));
});

test("a group starts with the first entry or behind the last, and later where it stopped", async () => {
  await using t = await openTestQueue("mq-ordered");
  await t.publish("k", 1, 10);
  const first: number[] = [];
  const latest: number[] = [];
  const consume = (group: string, start: "first" | "latest", into: number[]) =>
    t.queue.consume(t.topic, { group, start, mode: "ordered", handle: ({ data }) => into.push(data.n) });
  const a = await t.run(consume("first", "first", first));
  const b = await t.run(consume("latest", "latest", latest));
  await t.publish("k", 11, 20);
  await eventually(() => expect([first.length, latest.length]).toEqual([20, 10]));
  await Promise.all([a.stop(soft()), b.stop(soft())]);
  await t.publish("k", 21, 30);
  await t.run(consume("first", "first", first));
  await t.run(consume("latest", "latest", latest));
  await eventually(() => expect(latest).toEqual(range(11, 30)));
  await eventually(() => expect(first).toEqual(range(1, 30)));
});

test("stop finishes what is in hand, commits it and frees the partitions at no cost of attempts", async () => {
  await using t = await openTestQueue("mq-ordered", { partitions: 2 });
  const seen: [number, number][] = [];
  const gate = Promise.withResolvers<void>();
  const service = await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered", backoff: [30_000] },
      async handle({ data, attempt }) {
        if (data.n === 1) await gate.promise;
        if (data.n === 5) throw new Error("waits for half a minute");
        seen.push([data.n, attempt]);
      },
    }),
  );
  await t.publish("slow", 1, 2);
  await t.publish("failing", 5, 6);
  await eventually(async () => expect((await t.store.metrics.retried.get()).values[0]!.value).toBe(1));
  const stopping = service.stop(soft());
  await Bun.sleep(20);
  expect(seen).toEqual([]);
  gate.resolve();
  await stopping;
  expect(seen).toEqual([[1, 1]]);
  expect(await t.lease("g", "slow")).toMatchObject({ owner: "" });
  await t.run(
    t.member("other").consume(t.topic, {
      ...{ group: "g", mode: "ordered" },
      handle: ({ data, attempt }) => seen.push([data.n, attempt]),
    }),
  );
  await eventually(() => expect(seen.length).toBe(4));
  // 5 failed once and keeps that attempt; 2 and 6 were never handed out.
  expect(seen.slice(1).sort()).toEqual([
    [2, 1],
    [5, 2],
    [6, 1],
  ]);
});

test("a lost stream position is reported: entries trimmed unread are counted", async () => {
  await using t = await openTestQueue("mq-ordered", { partitions: 1 });
  const seen: number[] = [];
  const options = { group: "g", mode: "ordered", handle: ({ data }: Message<Numbered>) => seen.push(data.n) } as const;
  const service = await t.run(t.queue.consume(t.topic, options));
  await t.publish("k", 1, 10);
  await eventually(() => expect(seen.length).toBe(10));
  await service.stop(soft());
  await t.publish("k", 11, 20);
  await t.store.redis.commands.xtrim(t.store.keys.topic("t", 0), "MAXLEN", 4);
  await t.run(t.queue.consume(t.topic, options));
  await eventually(() => expect(seen).toEqual([...range(1, 10), ...range(17, 20)]));
  await eventually(async () => expect((await t.store.metrics.lostByTrim.get()).values).toMatchObject([{ value: 6 }]));
});

test("one member reads a partition once: consuming a group twice in a process is refused, and another mode too", async () => {
  await using t = await openTestQueue("mq-ordered");
  const handle = () => undefined;
  await t.run(t.queue.consume(t.topic, { group: "g", mode: "ordered", handle }));
  expect(() => t.queue.consume(t.topic, { group: "g", mode: "ordered", handle })).toThrow("already");
  const other = t.member("other").consume(t.topic, { group: "g", mode: "concurrent", handle });
  expect(other.start()).rejects.toThrow("exists as ordered");
  expect(() => t.queue.consume(t.topic, { group: "a b", mode: "ordered", leaseMs: 1, handle })).toThrow(
    /group must be .*leaseMs must be/,
  );
});

test("a place that its first waiter has no use for any more goes to the next", () => {
  const inFlight = new InFlight(1);
  const woken: string[] = [];
  expect(inFlight.take(() => woken.push("running"))).toBe(true);
  // Its partition was handed over meanwhile.
  expect(inFlight.take(() => woken.push("gone"))).toBe(false);
  const next = () => {
    if (inFlight.take(next)) woken.push("next");
  };
  next();
  const last = () => {
    if (inFlight.take(last)) woken.push("last");
  };
  last();
  inFlight.give();
  expect(woken).toEqual(["gone", "next"]);
  inFlight.give();
  expect(woken).toEqual(["gone", "next", "last"]);
});
