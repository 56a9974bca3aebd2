import { expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { NO_ATTEMPTS } from "../../lib/mq/attempts.ts";
import { DeliveryLeases, Hold } from "../../lib/mq/delivery-lease.ts";
import { Bury, type ConsumeOptions, Later, type Message } from "../../lib/mq/index.ts";
import { Delivery } from "../../lib/mq/message.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { eventually } from "../support/eventually.ts";
import { letterOf, type Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";

const soft = () => AbortSignal.timeout(20_000);
/** Long enough that nobody loses what he has in hand while the process stands still. */
const LEASE_MS = 30_000;
const AT_ONCE = [1];

/** Makes what the member "gone" holds of partition 0 look as if it had been silent for as long as its lease. */
async function letLeaseEnd({ store: { redis, keys } }: TestQueue, entries: readonly string[]): Promise<void> {
  const stream = keys.topic("t", 0);
  await redis.commands.call("XCLAIM", stream, "g", "gone", 0, ...entries, "IDLE", LEASE_MS + 1, "JUSTID");
}

async function pendingCount(t: TestQueue, group = "g"): Promise<number> {
  const { redis, keys, partitions } = t.store;
  let total = 0;
  for (let partition = 0; partition < partitions; partition++) {
    const [count] = (await redis.commands.xpending(keys.topic("t", partition), group)) as [number];
    total += count;
  }
  return total;
}

test("every message is handed out once and leaves the pending list with its ack", async () => {
  await using t = await openTestQueue("mq-concurrent");
  const seen: number[] = [];
  await t.publish("a", 1, 300);
  await t.run(t.queue.consume(t.topic, { group: "g", mode: "concurrent", handle: ({ data }) => seen.push(data.n) }));
  for (const [i, key] of ["b", "c"].entries()) await t.publish(key, 301 + i * 100, 400 + i * 100);
  await eventually(() => expect(seen.toSorted((x, y) => x - y)).toEqual(range(1, 500)));
  await eventually(async () => expect(await pendingCount(t)).toBe(0));
});

test("messages of one key run in parallel, up to the in-flight cap", async () => {
  await using t = await openTestQueue("mq-concurrent");
  let inHand = 0;
  let most = 0;
  let done = 0;
  const { promise: full, resolve: fill } = Promise.withResolvers<void>();
  await t.publish("k", 1, 40);
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "concurrent", inFlightMax: 5 },
      async handle() {
        inHand += 1;
        most = Math.max(most, inHand);
        if (inHand === 5) fill();
        await full;
        await Bun.sleep(3);
        inHand -= 1;
        done += 1;
      },
    }),
  );
  await eventually(() => expect(done).toBe(40));
  expect(most).toBe(5);
});

test("a failure is tried again by the ladder, then buried with its history; Bury and Later do what they say", async () => {
  await using t = await openTestQueue("mq-concurrent");
  const attempts: Record<number, number[]> = {};
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "concurrent", backoff: AT_ONCE, maxAttempts: 3 },
      handle({ data, attempt }) {
        attempts[data.n] ??= [];
        attempts[data.n]!.push(attempt);
        if (data.n === 1) throw new Error("always");
        if (data.n === 2 && attempt < 3) throw new Error("twice");
        if (data.n === 3) throw new Bury("hopeless");
        if (data.n === 4 && attempts[4]!.length < 4) throw new Later(1);
      },
    }),
  );
  await t.publish("k", 1, 5);
  await eventually(async () => expect(await t.deadLetters("g")).toHaveLength(2));
  await eventually(() => expect(attempts[4]!.length).toBe(4));
  expect(attempts).toEqual({ 1: [1, 2, 3], 2: [1, 2, 3], 3: [1], 4: [1, 1, 1, 1], 5: [1] });
  const letters = await t.deadLetters("g");
  expect(letters.find(({ d }) => d === '{"n":1}')).toMatchObject({
    reason: "attempts",
    attempts: "3",
    error: "Error: always",
  });
  expect(letters.find(({ d }) => d === '{"n":3}')).toMatchObject({ reason: "bury", attempts: "1" });
  await eventually(async () => expect(await pendingCount(t)).toBe(0));
  const { redis, keys } = t.store;
  const partition = keys.partitionOf("k");
  expect(await redis.commands.exists(keys.attempts("t", partition, "g"), keys.retries("t", partition, "g"))).toBe(0);
});

test("what does not fit the schema is buried with its issues", async () => {
  await using t = await openTestQueue("mq-concurrent");
  const seen: unknown[] = [];
  await t.queue.publish(t.topic, { type: "a", key: "k", raw: '{"n":"one"}' });
  await t.run(t.queue.consume(t.topic, { group: "g", mode: "concurrent", handle: (message) => seen.push(message) }));
  await eventually(async () => expect(await t.deadLetters("g")).toMatchObject([{ reason: "invalid" }]));
  expect((await t.deadLetters("g"))[0]!.error).toContain("data.n");
  expect(seen).toEqual([]);
});

test("a batch that fails is taken apart: the poison message is buried alone, the others are acked", async () => {
  await using t = await openTestQueue("mq-concurrent", { partitions: 1 });
  const seen = new Set<number>();
  await t.publish("k", 1, 10);
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "concurrent", backoff: AT_ONCE, maxAttempts: 3 },
      handleBatch(messages) {
        if (messages.some(({ data }) => data.n === 4)) throw new Error("poison");
        for (const { data } of messages) seen.add(data.n);
      },
    }),
  );
  await eventually(async () => expect(await t.deadLetters("g")).toMatchObject([{ d: '{"n":4}', attempts: "3" }]));
  await eventually(() => expect([...seen].toSorted((x, y) => x - y)).toEqual(range(1, 10).filter((n) => n !== 4)));
});

test("stop finishes what is in hand and gives the rest back at no cost", async () => {
  await using t = await openTestQueue("mq-concurrent");
  const seen: [string, number, number][] = [];
  const gate = Promise.withResolvers<void>();
  let handed = 0;
  const handle = (member: string) => async (message: Message<Numbered>) => {
    handed += 1;
    if (member === "m") await gate.promise;
    seen.push([member, message.data.n, message.attempt]);
  };
  const options = { group: "g", mode: "concurrent", inFlightMax: 2 } as const;
  const service = await t.run(t.queue.consume(t.topic, { ...options, handle: handle("m") }));
  await t.publish("k", 1, 6);
  await eventually(() => expect(handed).toBe(2));
  const stopping = service.stop(soft());
  await Bun.sleep(20);
  expect(seen).toEqual([]);
  gate.resolve();
  await stopping;
  expect(seen.length).toBe(2);
  expect(await pendingCount(t)).toBe(0);
  await t.run(t.member("other").consume(t.topic, { ...options, handle: handle("other") }));
  await eventually(() => expect(seen.length).toBe(6));
  expect(seen.every(([, , attempt]) => attempt === 1)).toBe(true);
});

test("what a member had in hand when it died is its own again after a restart, or another's after the lease", async () => {
  await using t = await openTestQueue("mq-concurrent", { partitions: 1 });
  const { redis, keys } = t.store;
  const stream = keys.topic("t", 0);
  const seen: string[] = [];
  await t.publish("k", 1, 2);
  await redis.commands.xgroup("CREATE", stream, "g", "0");
  await redis.commands.xreadgroup("GROUP", "g", "gone", "COUNT", 1, "STREAMS", stream, ">");
  await redis.commands.xreadgroup("GROUP", "g", "m", "COUNT", 1, "STREAMS", stream, ">");
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "concurrent", leaseMs: LEASE_MS },
      handle: ({ data, attempt }, { token }) => seen.push(`${data.n} attempt ${attempt} token ${token}`),
    }),
  );
  await eventually(() => expect(seen).toEqual(["2 attempt 1 token 2"]));
  const [[entry]] = (await redis.commands.xrange(stream, "-", "+")) as [[string, string[]]];
  await letLeaseEnd(t, [entry]);
  await eventually(() => expect(seen).toEqual(["2 attempt 1 token 2", "1 attempt 1 token 2"]));
  await eventually(async () => expect(await pendingCount(t)).toBe(0));
  expect((await t.store.metrics.takeovers.get()).values).toMatchObject([{ value: 2 }]);
});

test("a lease is renewed while its handler works", async () => {
  await using t = await openTestQueue("mq-concurrent", { partitions: 1 });
  const { redis, keys } = t.store;
  let deliveries = 0;
  const gate = Promise.withResolvers<void>();
  // Renewed from a third of it on; the rest is room for a process that stands still.
  const options: ConsumeOptions<Numbered> = {
    ...{ group: "g", mode: "concurrent", leaseMs: 9_000 },
    async handle() {
      deliveries += 1;
      await gate.promise;
    },
  };
  await t.run(t.queue.consume(t.topic, options));
  await t.run(t.member("other").consume(t.topic, options));
  await t.publish("k", 1, 1);
  await eventually(() => expect(deliveries).toBe(1));
  let silentMs = 0;
  await eventually(async () => {
    const [[, , idleMs]] = (await redis.commands.xpending(keys.topic("t", 0), "g", "-", "+", 1)) as [unknown[]];
    const before = silentMs;
    silentMs = Number(idleMs);
    expect(silentMs).toBeLessThan(before);
  });
  gate.resolve();
  await eventually(async () => expect(await pendingCount(t)).toBe(0));
  expect(deliveries).toBe(1);
});

test("a stale token can neither ack, put off, bury nor renew, and nothing changes", async () => {
  await using t = await openTestQueue("mq-concurrent", { partitions: 1 });
  const { redis, keys, metrics } = t.store;
  const stream = keys.topic("t", 0);
  await t.publish("k", 1, 1);
  await redis.commands.xgroup("CREATE", stream, "g", "0");
  const leasesOf = (member: string) =>
    new DeliveryLeases({ redis, keys, metrics, clock: systemClock, log: silentLog, member }, "t", "g", 1);
  const reply = await redis.commands.xreadgroup("GROUP", "g", "a", "COUNT", 1, "STREAMS", stream, ">");
  const [[, [entry]]] = reply as [[string, [[string, string[]]]]];
  const first = new Hold(new Delivery(t.topic, 0, entry), 1, NO_ATTEMPTS);
  await Bun.sleep(5);
  const { claims } = await leasesOf("b").claim(0, 10);
  expect(claims).toMatchObject([{ count: 2, attempts: { losses: 1 } }]);
  const letter = letterOf(entry[0]);
  const settlements = [
    { kind: "retry", waitMs: 0 },
    { kind: "bury", letter },
  ] as const;
  expect(await leasesOf("a").ack(0, [first])).toEqual(["stale"]);
  // What "a" knew before it read: that nobody had lost anything.
  const known = new Hold(first.delivery, 1, NO_ATTEMPTS, 0, "0");
  expect(await leasesOf("a").ack(0, [known])).toEqual(["stale"]);
  for (const settlement of settlements) {
    const { outcomes } = await leasesOf("a").settle(0, [{ hold: first, settlement }]);
    expect(outcomes).toEqual(["stale"]);
  }
  expect(await leasesOf("a").renew(0, [first])).toEqual([0]);
  expect(await t.deadLetters("g")).toEqual([]);
  const second = new Hold(new Delivery(t.topic, 0, entry), 2, claims[0]!.attempts);
  for (const expected of ["settled", "gone"]) {
    const settling = leasesOf("b").settle(0, [{ hold: second, settlement: { kind: "bury", letter } }]);
    expect((await settling).outcomes).toEqual([expected as "settled"]);
  }
  expect(await leasesOf("b").ack(0, [second])).toEqual(["gone"]);
  expect(await t.deadLetters("g")).toHaveLength(1);
});

test("a delivery whose holders were lost three times is handed out alone; lost three times so, it is buried", async () => {
  await using t = await openTestQueue("mq-concurrent", { partitions: 1 });
  const { redis, keys } = t.store;
  const stream = keys.topic("t", 0);
  await t.publish("k", 1, 4);
  await redis.commands.xgroup("CREATE", stream, "g", "0");
  await redis.commands.xreadgroup("GROUP", "g", "gone", "COUNT", 4, "STREAMS", stream, ">");
  const entries = await redis.commands.xrange(stream, "-", "+");
  // Lost with all else; alone for the third time; waiting beside that one, once and for the third time.
  const records = ["0 2 0 ", "0 8 0 ", "0 3 0 ", "0 7 0 "].flatMap((record, i) => [entries[i]![0], record]);
  await redis.commands.hset(keys.attempts("t", 0, "g"), ...records);
  await letLeaseEnd(
    t,
    entries.map(([entry]) => entry),
  );
  let inHand = 0;
  const seen: string[] = [];
  await t.publish("k", 5, 12);
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "concurrent", leaseMs: LEASE_MS },
      async handle({ data }) {
        inHand += 1;
        seen.push(data.n < 5 ? `${data.n} of ${inHand}` : String(data.n));
        await Bun.sleep(20);
        inHand -= 1;
      },
    }),
  );
  for (const n of [1, 3, 4]) await eventually(() => expect(seen).toContain(`${n} of 1`));
  expect(seen).not.toContain("2 of 1");
  await eventually(async () => expect(await t.deadLetters("g")).toMatchObject([{ d: '{"n":2}', reason: "poison" }]));
});

test("names of members that are gone are forgotten once they hold nothing", async () => {
  await using t = await openTestQueue("mq-concurrent", { partitions: 1 });
  const { redis, keys, metrics } = t.store;
  const stream = keys.topic("t", 0);
  await t.publish("k", 1, 1);
  await redis.commands.xgroup("CREATE", stream, "g", "0");
  for (let i = 0; i < 20; i++) await redis.commands.xgroup("CREATECONSUMER", stream, "g", `gone${i}`);
  await redis.commands.xreadgroup("GROUP", "g", "holder", "STREAMS", stream, ">");
  const context = { redis, keys, metrics, clock: systemClock, log: silentLog, member: "m" };
  const leases = new DeliveryLeases(context, "t", "g", 1_000);
  await Bun.sleep(5);
  expect(await leases.dropConsumers(0, 1, 15)).toBe(15);
  expect(await leases.dropConsumers(0, 1, 15)).toBe(5);
  const left = (await redis.commands.xinfo("CONSUMERS", stream, "g")) as unknown[][];
  expect(left.map((fields) => fields[1])).toEqual(["holder"]);
});
