/** Pulling from ordered groups, alone and beside members in process. */

import { expect, spyOn, test } from "bun:test";
import type { ConsumeOptions, Message, PulledDelivery } from "../../lib/mq/index.ts";
import { eventually } from "../support/eventually.ts";
import { type GroupOptions, numbers, openPuller, type Puller, pullGroup, shown } from "../support/pull.ts";
import { byKey, keysOfOnePartition, type Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";

/** None ends while the test's process stands still. */
const LONG_MS = 30_000;
/** Of leases whose end is waited for. */
const BRIEF_MS = 1_000;
const ordered = (options: GroupOptions = {}) => pullGroup({ mode: "ordered", leaseMs: LONG_MS, ...options });
const soft = () => AbortSignal.timeout(5_000);

async function standing(t: TestQueue) {
  return (await t.queue.describe(t.topic)).groups[0]!;
}

/** Watches that no key has two deliveries open, and that each is finished in order. */
class Ledger {
  readonly done: Pick<Message<Numbered>, "key" | "data">[] = [];
  readonly open = new Map<string, number>();
  readonly faults: string[] = [];

  begin({ key, data }: Pick<Message<Numbered>, "key" | "data">): void {
    if (this.open.has(key)) this.faults.push(`${key} ${data.n} while ${this.open.get(key)} is open`);
    this.open.set(key, data.n);
  }

  end(message: Pick<Message<Numbered>, "key" | "data">): void {
    this.open.delete(message.key);
    this.done.push(message);
  }
}

/** Receives and acks until `isOver`, in a random rhythm; some deliveries are given back first. */
async function work(client: Puller, ledger: Ledger, isOver: () => boolean, max = 10): Promise<void> {
  while (!isOver()) {
    const received = await client.receive({ max, waitMs: 300 });
    for (const { message } of received) ledger.begin(message);
    await Promise.all(
      received.map(async ({ message, token }) => {
        await Bun.sleep(Math.random() * 5);
        if (Math.random() < 0.1) {
          ledger.open.delete(message.key);
          expect(await client.nack(token, { kind: "release" })).toBe("ok");
        } else {
          ledger.end(message);
          expect(await client.ack(token)).toEqual(["ok"]);
        }
      }),
    );
  }
}

test("two services on one group: each key in order and one at a time", async () => {
  await using t = await openTestQueue("mq-pull-ordered");
  await using a = openPuller(t, ordered());
  await using b = openPuller(t, ordered());
  const keys = range(1, 20).map((n) => `k${n}`);
  for (const key of keys) await t.publish(key, 1, 20);
  const ledger = new Ledger();
  const isOver = () => ledger.done.length >= 20 * 40;
  const working = [work(a, ledger, isOver), work(b, ledger, isOver), work(b, ledger, isOver, 3)];
  for (let n = 21; n <= 40; n++) {
    await Promise.all(keys.map((key) => t.publish(key, n, n)));
    await Bun.sleep(5);
  }
  await Promise.all(working);
  expect(ledger.faults).toEqual([]);
  expect(byKey(ledger.done)).toEqual(Object.fromEntries(keys.map((key) => [key, range(1, 40)])));
  expect(await standing(t)).toMatchObject({ lag: 0, open: 0, deadLetters: 0 });
  expect((await t.store.metrics.lostByTrim.get()).values.every(({ value }) => value === 0)).toBe(true);
});

test("the next message of a key waits for the answer to the one before; other keys do not", async () => {
  await using t = await openTestQueue("mq-pull-ordered", { partitions: 1 });
  await using client = openPuller(t, ordered());
  await t.publish("a", 1, 3);
  await t.publish("b", 11, 12);
  const first = await client.receive({ max: 10 });
  expect(numbers(first)).toEqual([1, 11]);
  expect(await client.receive({ max: 10 })).toEqual([]);
  expect(await client.ack(first[0]!.token)).toEqual(["ok"]);
  expect(await client.ack(first[0]!.token)).toEqual(["ok"]);
  const second = await client.receive({ max: 10 });
  expect(numbers(second)).toEqual([2]);
  await t.publish("c", 21, 21);
  expect(numbers(await client.receive({ max: 10 }))).toEqual([21]);
  const waiting = client.receive({ max: 10, waitMs: 20_000 });
  await Bun.sleep(30);
  const ackedAt = performance.now();
  await client.ack(second[0]!.token);
  expect(numbers(await waiting)).toEqual([3]);
  expect(performance.now() - ackedAt).toBeLessThan(10_000);
  expect(await standing(t)).toMatchObject({ lag: 4 });
});

test("messages without a key hold up nobody", async () => {
  await using t = await openTestQueue("mq-pull-ordered", { partitions: 1 });
  await using client = openPuller(t, ordered());
  for (const n of range(1, 5)) await t.queue.publish(t.topic, { type: "a", data: { n } });
  const received = await client.receive({ max: 10 });
  expect(numbers(received)).toEqual(range(1, 5));
  expect(await client.ack(...received.map(({ token }) => token))).toEqual(received.map(() => "ok"));
  expect(await standing(t)).toMatchObject({ lag: 0 });
});

test("a lease that ends without an answer counts and comes first again; its token is refused from then on", async () => {
  await using t = await openTestQueue("mq-pull-ordered", { partitions: 1 });
  await using a = openPuller(t, ordered({ leaseMs: BRIEF_MS }));
  await using b = openPuller(t, ordered());
  await t.publish("k", 1, 2);
  const [first] = await a.receive({ max: 10 });
  // Its process dies: another one serves the client.
  const again = await b.receive({ max: 10, waitMs: 20_000 });
  expect(shown(again)).toEqual(["1 attempt 2"]);
  expect(await b.ack(first!.token)).toEqual(["lease_lost"]);
  for (const kind of ["retry", "release", "reject"] as const) {
    expect(await b.nack(first!.token, { kind })).toBe("lease_lost");
  }
  expect(await b.renew(5_000, first!.token)).toEqual(["lease_lost"]);
  expect(await b.ack(again[0]!.token)).toEqual(["ok"]);
  const [second] = await a.receive();
  expect(shown([second!])).toEqual(["2 attempt 1"]);
  // Nobody has it yet, and still the lease is over.
  await Bun.sleep(1_100);
  expect(await b.ack(second!.token)).toEqual(["lease_lost"]);
  expect(await b.renew(5_000, second!.token)).toEqual(["lease_lost"]);
  const third = await eventually(async () => {
    const [given] = await a.receive();
    // Too late when the process stood still; then it comes again.
    expect(await b.renew(LONG_MS, given!.token)).toEqual(["ok"]);
    return given;
  });
  expect(numbers([third!])).toEqual([2]);
  expect(third!.attempt).toBeGreaterThanOrEqual(2);
  await Bun.sleep(1_200);
  expect(await b.receive()).toEqual([]);
  expect(await b.ack(third!.token)).toEqual(["ok"]);
  expect(await standing(t)).toMatchObject({ lag: 0, deadLetters: 0 });
});

test("retry comes first again, after maxAttempts it is buried and its key goes on; release counts none; reject buries", async () => {
  await using t = await openTestQueue("mq-pull-ordered", { partitions: 1 });
  await using client = openPuller(t, ordered({ maxAttempts: 2, backoff: [200] }));
  await t.publish("k", 1, 4);
  const one = async () => (await client.receive({ max: 10, waitMs: 20_000 })) as [PulledDelivery<Numbered>];
  const [first] = await one();
  expect(await client.nack(first.token, { kind: "release" })).toBe("ok");
  expect(await client.nack(first.token, { kind: "release" })).toBe("lease_lost");
  const [second] = await one();
  expect(await client.nack(second.token, { kind: "retry", reason: "busy" })).toBe("ok");
  const [third] = await one();
  expect(shown([first, second, third])).toEqual(["1 attempt 1", "1 attempt 1", "1 attempt 2"]);
  expect(await client.nack(third.token, { kind: "retry", reason: "still busy" })).toBe("ok");
  const [fourth] = await one();
  expect(await client.nack(fourth.token, { kind: "reject", reason: "nonsense" })).toBe("ok");
  const [fifth] = await one();
  expect(shown([fourth, fifth])).toEqual(["2 attempt 1", "3 attempt 1"]);
  const letters = await t.deadLetters("g");
  expect(letters).toMatchObject([
    { d: '{"n":1}', k: "k", reason: "attempts", attempts: "2", error: "still busy", member: "#pull" },
    { d: '{"n":2}', reason: "bury", error: "nonsense" },
  ]);
  const history = JSON.parse(letters[0]!.history!) as [number, string, string][];
  expect(history.map(([, , error]) => error)).toEqual(["busy", "still busy"]);
  await client.ack(fifth.token);
  expect(numbers(await one())).toEqual([4]);
});

test("in a group that parks, a spent message holds its key until it is unparked; then all of it comes in order", async () => {
  await using t = await openTestQueue("mq-pull-ordered", { partitions: 1 });
  await using client = openPuller(t, ordered({ maxAttempts: 1, onPoison: "park" }));
  await t.publish("bad", 1, 2);
  await t.publish("good", 11, 11);
  const [bad, good] = await client.receive({ max: 10 });
  expect(await client.nack(bad!.token, { kind: "retry", reason: "no" })).toBe("ok");
  await client.ack(good!.token);
  await t.publish("bad", 3, 3);
  await t.publish("good", 12, 12);
  const received = await client.receive({ max: 10 });
  expect(numbers(received)).toEqual([12]);
  await client.ack(received[0]!.token);
  expect(await client.receive()).toEqual([]);
  expect(await t.queue.aside.list(t.topic, "g")).toMatchObject([
    { key: "bad", state: "parked", failed: 1, messages: 3 },
  ]);
  expect(await t.queue.aside.unpark(t.topic, "g", "bad")).toBe("ok");
  for (const n of range(1, 3)) {
    const [next] = await client.receive({ waitMs: 20_000 });
    expect(numbers([next!])).toEqual([n]);
    await client.ack(next!.token);
  }
  expect(await standing(t)).toMatchObject({ lag: 0, deadLetters: 0 });
});

test("three holders lost without an answer: alone, then a dead letter, and the key goes on", async () => {
  await using t = await openTestQueue("mq-pull-ordered", { partitions: 1 });
  const { redis, keys } = t.store;
  await using dying = openPuller(t, ordered({ leaseMs: BRIEF_MS }));
  await using client = openPuller(t, ordered());
  await t.publish("deadly", 1, 2);
  await dying.receive();
  const aside = keys.aside("t", 0, "g");
  const record = await redis.commands.hget(aside, "deadly");
  await redis.commands.hset(aside, "deadly", record!.replace(/^o (\d+) 0 0 /, "o $1 2 2 "));
  await t.publish("other", 11, 12);
  await Bun.sleep(1_100);
  const alone = await dying.receive({ max: 10 });
  expect(shown(alone)).toEqual(["1 attempt 4"]);
  await Bun.sleep(1_100);
  const rest = await client.receive({ max: 10 });
  expect(numbers(rest).toSorted()).toEqual([11, 2]);
  expect(await t.deadLetters("g")).toMatchObject([{ d: '{"n":1}', reason: "poison" }]);
});

test("a receive that is repeated under its attempt id is given the same again", async () => {
  await using t = await openTestQueue("mq-pull-ordered", { partitions: 1 });
  await using a = openPuller(t, ordered());
  await using b = openPuller(t, ordered());
  await t.publish("ä-key", 1, 1);
  await t.publish("k", 2, 3);
  const first = await a.receive({ max: 10, attemptId: "one" });
  const again = await b.receive({ max: 10, attemptId: "one" });
  expect(shown(first)).toEqual(["1 attempt 1", "2 attempt 1"]);
  expect(again.map(({ token }) => token)).toEqual(first.map(({ token }) => token));
  expect(again.map(({ message }) => [message.key, message.data.n])).toEqual([
    ["ä-key", 1],
    ["k", 2],
  ]);
  await b.ack(first[1]!.token);
  expect(numbers(await b.receive({ max: 10, attemptId: "one" }))).toEqual([1]);
  expect(numbers(await b.receive({ max: 10, attemptId: "two" }))).toEqual([3]);
});

test("what is for another group, of another tag, expired, or no message, is finished unseen, in its key's order", async () => {
  await using t = await openTestQueue("mq-pull-ordered", { partitions: 1 });
  const { redis, keys } = t.store;
  await using client = openPuller(t, ordered({ tags: ["vip"] }));
  const message = (n: number) => ({ type: "a", key: "k", tag: "vip", data: { n } });
  await t.queue.publish(t.topic, message(1));
  for (let n = 2; n <= 300; n++) await t.queue.publish(t.topic, { ...message(n), tag: "poor", key: `k${n % 7}` });
  await t.queue.publish(t.topic, { ...message(301), expireAt: 1 });
  await redis.commands.xadd(keys.topic("t", 0), "*", "@t=vip;g=other;r=1 id a k  ", '{"n":302}');
  await redis.commands.xadd(keys.topic("t", 0), "*", "@t=vip id a k  ", "{not json");
  await t.queue.publish(t.topic, message(305));
  const [first] = await client.receive({ max: 10 });
  expect(numbers([first!])).toEqual([1]);
  await client.ack(first!.token);
  const [last] = await client.receive({ max: 10 });
  expect(numbers([last!])).toEqual([305]);
  await client.ack(last!.token);
  expect(await t.deadLetters("g")).toMatchObject([{ reason: "invalid", d: "{not json" }]);
  expect(await standing(t)).toMatchObject({ lag: 0, sideMessages: 0 });
});

test("what another program appended is buried with all it holds, and holds up nobody", async () => {
  await using t = await openTestQueue("mq-pull-ordered", { partitions: 1 });
  const { redis, keys } = t.store;
  await using client = openPuller(t, ordered());
  await redis.commands.xadd(keys.topic("t", 0), "*", "some", "thing", "else", "\u0001");
  await redis.commands.xadd(keys.topic("t", 0), "*", "short", "{}");
  await t.publish("k", 1, 1);
  expect(numbers(await client.receive({ max: 10 }))).toEqual([1]);
  const letters = await t.deadLetters("g");
  expect(letters.map(({ reason }) => reason)).toEqual(["invalid", "invalid"]);
  expect(letters.map(({ d }) => d).join()).toContain("thing");
});

test("a seek refuses what services have in hand, and begins anew at its place; a pause hands out nothing", async () => {
  await using t = await openTestQueue("mq-pull-ordered", { partitions: 1 });
  await using client = openPuller(t, ordered());
  await t.publish("a", 1, 3);
  await t.publish("b", 11, 13);
  const before = await client.receive({ max: 10 });
  await t.queue.control.seek(t.topic, "g", "first");
  expect(await client.ack(...before.map(({ token }) => token))).toEqual(["lease_lost", "lease_lost"]);
  expect(await client.renew(5_000, ...before.map(({ token }) => token))).toEqual(["lease_lost", "lease_lost"]);
  await t.queue.control.pause(t.topic, "g");
  expect(await client.receive({ max: 10 })).toEqual([]);
  const waiting = client.receive({ max: 10, waitMs: 20_000 });
  await t.queue.control.resume(t.topic, "g");
  const seen: number[] = [];
  for (let received = await waiting; received.length > 0; received = await client.receive({ max: 10 })) {
    expect(received.every(({ attempt }) => attempt === 1)).toBe(true);
    seen.push(...numbers(received));
    expect(await client.ack(before[0]!.token)).toEqual(["lease_lost"]);
    await client.ack(...received.map(({ token }) => token));
  }
  expect(seen).toEqual([1, 11, 2, 12, 3, 13]);
});

test("a receive that waits right after a seek is given what lies behind its place at once", async () => {
  await using t = await openTestQueue("mq-pull-ordered", { partitions: 1 });
  await using client = openPuller(t, ordered());
  await t.publish("a", 1, 1);
  expect(numbers(await client.receive())).toEqual([1]);
  await t.queue.control.seek(t.topic, "g", "first");
  const scripts = t.store.redis.commands as unknown as { mqReceiveOrdered(...args: unknown[]): Promise<unknown> };
  const asked = spyOn(scripts, "mqReceiveOrdered");
  expect(numbers(await client.receive({ waitMs: 20_000 }))).toEqual([1]);
  // The third would be asked for a second later.
  expect(asked.mock.calls.length).toBeLessThanOrEqual(2);
});

test("services take over what a member left: its open messages first, with what they cost, and nothing twice", async () => {
  await using t = await openTestQueue("mq-pull-ordered", { partitions: 1 });
  const [bad, good] = keysOfOnePartition(t.store.keys.partitionOf, 2) as [string, string];
  const seen: number[] = [];
  const service = await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered", backoff: [20_000] },
      handle({ key, data }) {
        if (key === bad) throw new Error("not here");
        seen.push(data.n);
      },
    }),
  );
  await t.publish(bad, 1, 3);
  await t.publish(good, 11, 20);
  await eventually(() => expect(seen).toEqual(range(11, 20)));
  await service.stop(soft());
  await using client = openPuller(t, ordered());
  await t.publish(good, 21, 21);
  await t.publish(bad, 4, 4);
  const pulled: string[] = [];
  await eventually(async () => {
    const received = await client.receive({ max: 10 });
    pulled.push(...shown(received));
    await client.ack(...received.map(({ token }) => token));
    expect(pulled.length).toBe(5);
  });
  expect(pulled.filter((one) => !one.startsWith("21"))).toEqual([
    ...["1 attempt 2", "2 attempt 1", "3 attempt 1", "4 attempt 1"],
  ]);
  expect(await standing(t)).toMatchObject({ lag: 0, sideMessages: 0 });
});

test("a member that takes over waits for what services have in hand, and goes on behind it", async () => {
  await using t = await openTestQueue("mq-pull-ordered", { partitions: 1 });
  await using client = openPuller(t, ordered());
  await t.publish("a", 1, 3);
  await t.publish("b", 11, 13);
  const [a, b] = await client.receive({ max: 10 });
  expect(numbers([a!, b!])).toEqual([1, 11]);
  await t.store.redis.commands.hset(t.store.keys.lease("t", 0, "g"), "owner", "", "until", 0);
  await t.store.redis.commands.del(t.store.keys.groupMembers("t", "g"));
  const seen: string[] = [];
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered" },
      handle: ({ data, attempt }) => seen.push(`${data.n} attempt ${attempt}`),
    }),
  );
  await t.publish("c", 21, 21);
  await eventually(() => expect(seen).toEqual(["21 attempt 1"]));
  expect(await client.ack(a!.token)).toEqual(["ok"]);
  await eventually(() => expect(seen).toEqual(["21 attempt 1", "2 attempt 1", "3 attempt 1"]));
  // The other is never answered.
  expect(await client.renew(BRIEF_MS, b!.token)).toEqual(["ok"]);
  await eventually(async () => expect(await standing(t)).toMatchObject({ lag: 0 }));
  expect(seen.slice(3)).toEqual(["11 attempt 2", "12 attempt 1", "13 attempt 1"]);
  expect(await client.ack(b!.token)).toEqual(["ok"]);
});

test("members and services share the partitions: each has its part, every key stays in order, one delivery at a time", async () => {
  await using t = await openTestQueue("mq-pull-ordered", { partitions: 4 });
  const ledger = new Ledger();
  let byMember = 0;
  const native: ConsumeOptions<Numbered> = {
    ...{ group: "g", mode: "ordered" },
    async handle(message) {
      ledger.begin(message);
      await Bun.sleep(Math.random() * 3);
      byMember += 1;
      ledger.end(message);
    },
  };
  const keys = range(1, 20).map((n) => `k${n}`);
  let isOver = false;
  await using client = openPuller(t, ordered());
  const member = await t.run(t.member("m1").consume(t.topic, native));
  const working = work(client, ledger, () => isOver);
  let upTo = 0;
  const publish = async (count: number) => {
    for (let i = 0; i < count; i++) {
      upTo += 1;
      await Promise.all(keys.map((key) => t.publish(key, upTo, upTo)));
      await Bun.sleep(10);
    }
  };
  await publish(20);
  const owners = async () => (await standing(t)).owners.toSorted();
  await eventually(async () => expect(await owners()).toEqual(["#pull", "#pull", "m1", "m1"]));
  await publish(20);
  await member.stop(soft());
  await eventually(async () => expect(await owners()).toEqual(["#pull", "#pull", "#pull", "#pull"]));
  await publish(20);
  const before = byMember;
  await t.run(t.member("m2").consume(t.topic, native));
  await eventually(async () => expect(await owners()).toEqual(["#pull", "#pull", "m2", "m2"]));
  await publish(20);
  await eventually(() => expect(ledger.done.length).toBe(20 * 80));
  isOver = true;
  await working;
  expect(ledger.faults).toEqual([]);
  expect(byKey(ledger.done)).toEqual(Object.fromEntries(keys.map((key) => [key, range(1, 80)])));
  expect(byMember).toBeGreaterThan(before);
  await eventually(async () => expect(await standing(t)).toMatchObject({ lag: 0, sideMessages: 0 }));
});

test("beyond what may stand aside nothing more is read, and it goes on when there is room", async () => {
  await using t = await openTestQueue("mq-pull-ordered", { partitions: 1 });
  await using client = openPuller(t, ordered());
  const inputs = range(1, 10_050).map((n) => ({ type: "a", key: `k${n}`, data: { n } }));
  await t.queue.publishMany(t.topic, inputs);
  const held: PulledDelivery<Numbered>[] = [];
  for (let received = await client.receive({ max: 100 }); received.length > 0; ) {
    held.push(...received);
    received = await client.receive({ max: 100 });
  }
  expect(held.length).toBeGreaterThanOrEqual(10_000);
  expect(held.length).toBeLessThan(10_050);
  for (let first = 0; first < held.length; first += 1_000) {
    await client.ack(...held.slice(first, first + 1_000).map(({ token }) => token));
  }
  const rest = await client.receive({ max: 100 });
  expect(held.length + rest.length).toBe(10_050);
});
