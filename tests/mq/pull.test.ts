/** Pulling from concurrent groups. What both modes share is tried here: tokens, long polls, attempt ids. */

import { expect, test } from "bun:test";
import { type ConsumeOptions, defineTopic } from "../../lib/mq/index.ts";
import { PullTokens } from "../../lib/mq/pull-token.ts";
import { redisNow } from "../support/delayed.ts";
import { eventually } from "../support/eventually.ts";
import { numbers, openPuller, pullGroup, shown } from "../support/pull.ts";
import { Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";
import { sendTwice } from "../support/twice.ts";

const sorted = (values: readonly number[]) => values.toSorted((a, b) => a - b);

async function lagOf(t: TestQueue): Promise<number> {
  return (await t.queue.describe(t.topic)).groups[0]!.lag;
}

async function counted(t: TestQueue, name: "takeovers" | "leasesLost" | "acked" | "delivered"): Promise<number> {
  return (await t.store.metrics[name].get()).values[0]?.value ?? 0;
}

test("every message is received once and gone with its ack; a repeated ack is no fault", async () => {
  await using t = await openTestQueue("mq-pull");
  await using a = openPuller(t, pullGroup({ leaseMs: 30_000 }));
  await using b = openPuller(t, pullGroup({ leaseMs: 30_000 }));
  for (const key of ["a", "b", "c"]) await t.publish(key, 1, 100);
  const seen: number[] = [];
  for (;;) {
    const both = await Promise.all([a.receive({ max: 7 }), b.receive({ max: 64 })]);
    expect(both[0].length).toBeLessThanOrEqual(7);
    expect(both[1].length).toBeLessThanOrEqual(64);
    const received = both.flat();
    if (received.length === 0) break;
    seen.push(...numbers(received));
    // Any process takes any answer.
    const tokens = received.map(({ token }) => token);
    expect(await b.ack(...tokens)).toEqual(tokens.map(() => "ok"));
    expect(await a.ack(...tokens)).toEqual(tokens.map(() => "ok"));
  }
  expect(sorted(seen)).toEqual(sorted([...range(1, 100), ...range(1, 100), ...range(1, 100)]));
  expect(await lagOf(t)).toBe(0);
  expect([await counted(t, "delivered"), await counted(t, "acked")]).toEqual([300, 300]);
});

test("a lease that ends without an answer counts; its token is refused by ack, nack and renew, and changes nothing", async () => {
  await using t = await openTestQueue("mq-pull", { partitions: 1 });
  await using client = openPuller(t, pullGroup());
  await t.publish("k", 1, 1);
  const [first] = await client.receive();
  expect(first!.attempt).toBe(1);
  const [second] = await client.receive({ waitMs: 20_000 });
  expect(shown([second!])).toEqual(["1 attempt 2"]);
  // By Redis TIME: the second began when the first had ended.
  expect(second!.leaseUntil - 1_000).toBeGreaterThanOrEqual(first!.leaseUntil);
  expect(await client.ack(first!.token)).toEqual(["lease_lost"]);
  for (const kind of ["retry", "release", "reject"] as const) {
    expect(await client.nack(first!.token, { kind })).toBe("lease_lost");
  }
  expect(await client.renew(5_000, first!.token)).toEqual(["lease_lost"]);
  expect(await t.deadLetters("g")).toEqual([]);
  expect(await counted(t, "takeovers")).toBe(1);
  expect(await client.ack(second!.token)).toEqual(["ok"]);
  expect(await lagOf(t)).toBe(0);
});

test("a renewed lease ends later", async () => {
  await using t = await openTestQueue("mq-pull", { partitions: 1 });
  await using client = openPuller(t, pullGroup());
  await t.publish("k", 1, 1);
  const [given] = await client.receive();
  expect(await client.renew(60_000, given!.token)).toEqual(["ok"]);
  expect(await client.receive({ waitMs: 1_600 })).toEqual([]);
  expect(await client.ack(given!.token)).toEqual(["ok"]);
});

test("forged, foreign and broken tokens are refused one by one, the others of the call are answered", async () => {
  await using t = await openTestQueue("mq-pull", { partitions: 1 });
  await using mine = openPuller(t, pullGroup());
  await using theirs = openPuller(t, pullGroup({ group: "other" }));
  await t.publish("k", 1, 1);
  const [one] = await mine.receive();
  const [other] = await theirs.receive();
  const last = one!.token.at(-1) === "A" ? "B" : "A";
  const altered = [`${one!.token.slice(0, -1)}${last}`, `${one!.token}!`, ` ${one!.token}`];
  const forged = [other!.token, ...altered, "", "x", "%%%", "A".repeat(5_000)];
  const outcomes = await mine.ack(...forged, one!.token);
  expect(outcomes).toEqual([...forged.map(() => "lease_lost"), "ok"]);
  expect(await mine.renew(5_000, ...forged)).toEqual(forged.map(() => "lease_lost"));
  expect(await theirs.ack(other!.token)).toEqual(["ok"]);
  const elsewhere = new PullTokens(new Uint8Array(32)).seal("t", "g", {
    ...{ partition: 900, entry: "1-0", fence: "0.1", key: "" },
  });
  expect(await mine.ack(elsewhere)).toEqual(["lease_lost"]);
});

test("retry counts an attempt and waits; after maxAttempts a dead letter with its history; release counts none; reject buries", async () => {
  await using t = await openTestQueue("mq-pull", { partitions: 1 });
  const { redis, keys } = t.store;
  const retries = keys.retries("t", 0, "g");
  await using client = openPuller(t, pullGroup({ maxAttempts: 3, backoff: [60_000], leaseMs: 30_000 }));
  await t.publish("k", 1, 3);
  const [one, two, three] = await client.receive({ max: 3 });
  expect(await client.nack(one!.token, { kind: "retry", reason: "shop is closed" })).toBe("ok");
  expect(await client.nack(one!.token, { kind: "retry" })).toBe("lease_lost");
  expect(await client.nack(two!.token, { kind: "release" })).toBe("ok");
  expect(await client.nack(three!.token, { kind: "reject", reason: "no such item" })).toBe("ok");
  const [released] = await client.receive();
  expect(shown([released!])).toEqual(["2 attempt 1"]);
  await client.ack(released!.token);
  expect(await client.receive({ max: 3 })).toEqual([]);
  const { entry } = one!.message;
  const now = await redisNow(t.store);
  // A minute and its jitter, of which some seconds may have passed.
  expect(Number(await redis.commands.zscore(retries, entry)) - now).toBeWithin(40_000, 66_001);
  await redis.commands.zadd(retries, "XX", now + 300, entry);
  const startedAt = performance.now();
  const [again] = await client.receive({ waitMs: 20_000 });
  expect(performance.now() - startedAt).toBeLessThan(10_000);
  expect(await redisNow(t.store)).toBeGreaterThanOrEqual(now + 300);
  expect(shown([again!])).toEqual(["1 attempt 2"]);
  expect(await client.nack(again!.token, { kind: "retry", retryAfterMs: 0, reason: "still closed" })).toBe("ok");
  const [third] = await client.receive({ waitMs: 20_000 });
  expect(shown([third!])).toEqual(["1 attempt 3"]);
  expect(await client.nack(third!.token, { kind: "retry" })).toBe("ok");
  expect(await client.receive({ max: 3 })).toEqual([]);
  const letters = await t.deadLetters("g");
  const [rejected, spent] = letters as [Record<string, string>, Record<string, string>];
  expect(rejected).toMatchObject({ d: '{"n":3}', reason: "bury", error: "no such item", attempts: "1" });
  expect(spent).toMatchObject({ d: '{"n":1}', reason: "attempts", error: "nacked", attempts: "3", member: "#pull" });
  const history = JSON.parse(spent.history!) as [number, string, string][];
  expect(history.map(([, member, error]) => `${member}: ${error}`)).toEqual([
    ...["#pull: shop is closed", "#pull: still closed", "#pull: nacked"],
  ]);
  expect(await lagOf(t)).toBe(0);
});

test("three holders lost without an answer: handed out alone, then buried", async () => {
  await using t = await openTestQueue("mq-pull", { partitions: 1 });
  const { redis, keys } = t.store;
  await using client = openPuller(t, pullGroup());
  await t.publish("k", 1, 1);
  const [given] = await client.receive();
  await redis.commands.hset(keys.attempts("t", 0, "g"), given!.message.entry, "2 2 5 []");
  await t.publish("k", 2, 5);
  const alone = await eventually(async () => {
    await redis.commands.zadd(keys.retries("t", 0, "g"), 0, given!.message.entry);
    const received = await client.receive({ max: 10 });
    expect(received).toHaveLength(1);
    return received;
  });
  expect(shown(alone)).toEqual(["1 attempt 4"]);
  const others = await client.receive({ max: 10 });
  expect(numbers(others)).toEqual(range(2, 5));
  await client.ack(...others.map(({ token }) => token));
  expect(await client.receive({ waitMs: 2_500 })).toEqual([]);
  expect(await t.deadLetters("g")).toMatchObject([{ d: '{"n":1}', reason: "poison", attempts: "5", first: "5" }]);
});

test("a receive that is repeated under its attempt id is given the same again, also when both came at once", async () => {
  await using t = await openTestQueue("mq-pull", { partitions: 2 });
  await using a = openPuller(t, pullGroup({ leaseMs: 30_000 }));
  await using b = openPuller(t, pullGroup({ leaseMs: 30_000 }));
  expect(await a.receive({ max: 5, attemptId: "try-1" })).toEqual([]);
  await t.publish("a", 1, 10);
  await t.publish("b", 11, 20);
  const first = await a.receive({ max: 5, attemptId: "try-1" });
  expect(first).toHaveLength(5);
  const again = await b.receive({ max: 5, attemptId: "try-1" });
  expect(again.map(({ token }) => token)).toEqual(first.map(({ token }) => token));
  expect(shown(again)).toEqual(shown(first));
  const both = await Promise.all([
    a.receive({ max: 5, attemptId: "try-2" }),
    b.receive({ max: 5, attemptId: "try-2" }),
  ]);
  expect(both[0].map(({ token }) => token)).toEqual(both[1].map(({ token }) => token));
  const rest = await a.receive({ max: 100 });
  expect(sorted([...numbers(first), ...numbers(both[0]), ...numbers(rest)])).toEqual(range(1, 20));
  expect(rest.every(({ attempt }) => attempt === 1)).toBe(true);
  // Only one of them can find it.
  await t.publish("a", 21, 21);
  const one = await Promise.all([a, b].map((client) => client.receive({ waitMs: 200, attemptId: "try-3" })));
  expect(one.map(numbers)).toEqual([[21], [21]]);
});

test("a process that dies between hand-out and answer costs a lease, and no message", async () => {
  await using t = await openTestQueue("mq-pull", { partitions: 1 });
  const { redis } = t.store;
  await t.publish("k", 1, 2);
  const commands = new Proxy(redis.commands, {
    get(target, name) {
      if (name === "set") return () => Promise.reject(new Error("Connection is closed."));
      const value: unknown = Reflect.get(target, name);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  await using dying = openPuller({ ...t, store: { ...t.store, redis: { ...redis, commands } } }, pullGroup());
  const lost = dying.receive({ max: 10, attemptId: "one" });
  expect(await lost.catch((error: unknown) => error)).toMatchObject({ code: "UNKNOWN_OUTCOME" });
  await using client = openPuller(t, pullGroup());
  const received = await client.receive({ max: 10, waitMs: 20_000, attemptId: "one" });
  expect(shown(received)).toEqual(["1 attempt 2", "2 attempt 2"]);
});

test.each(["concurrent", "ordered"] as const)("%s: every script sent twice, everything happens once", async (mode) => {
  await using t = await openTestQueue("mq-pull", { partitions: 2 });
  await using client = openPuller(t, pullGroup({ mode, backoff: [5] }));
  for (const key of ["a", "b", "c"]) await t.publish(key, 1, 10);
  // What the second execution hands out nobody hears of: it comes again when its lease is over.
  sendTwice(t.store.redis.commands, { isHandOut: (script) => script.startsWith("mqReceive") });
  const acked: string[] = [];
  await eventually(async () => {
    for (const { message, token, attempt } of await client.receive({ max: 30, waitMs: 500 })) {
      const name = `${message.key}${message.data.n}`;
      if (name === "b5") await client.nack(token, { kind: "reject" });
      else if (name === "c2" && attempt === 1) await client.nack(token, { kind: "retry" });
      else if ((await client.ack(token))[0] === "ok") acked.push(name);
    }
    expect(acked.length + (await t.deadLetters("g")).length).toBe(30);
  });
  if (mode === "ordered") {
    const ofKey = (key: string) => acked.filter((name) => name.startsWith(key)).map((name) => Number(name.slice(1)));
    expect([ofKey("a"), ofKey("c")]).toEqual([range(1, 10), range(1, 10)]);
  } else expect(new Set(acked).size).toBe(29);
  expect(await t.deadLetters("g")).toMatchObject([{ k: "b", d: '{"n":5}' }]);
  expect(await lagOf(t)).toBe(0);
  await t.queue.control.seek(t.topic, "g", "first");
  expect(await lagOf(t)).toBe(30);
  for (let times = 0; times < 2; times++) await t.queue.control.dropGroup(t.topic, "g");
  expect((await t.queue.describe(t.topic)).groups).toEqual([]);
});

test("a waiting receive is woken by a message, by a release, and by whoever waits before it, within moments", async () => {
  await using t = await openTestQueue("mq-pull");
  await using client = openPuller(t, pullGroup({ leaseMs: 30_000 }));
  for (let i = 0; i < 5; i++) {
    const waiting = client.receive({ waitMs: 20_000 });
    await Bun.sleep(50);
    const startedAt = performance.now();
    await t.publish(`k${i}`, i, i);
    const [given] = await waiting;
    expect(performance.now() - startedAt).toBeLessThan(5_000);
    const released = client.receive({ waitMs: 20_000 });
    await Bun.sleep(20);
    const releasedAt = performance.now();
    expect(await client.nack(given!.token, { kind: "release" })).toBe("ok");
    const [again] = await released;
    expect(performance.now() - releasedAt).toBeLessThan(5_000);
    expect(shown([again!])).toEqual([`${i} attempt 1`]);
    await client.ack(again!.token);
  }
  const many = Array.from({ length: 40 }, () => client.receive({ waitMs: 20_000 }));
  await Bun.sleep(50);
  await t.publish("a", 1, 20);
  await t.publish("b", 21, 40);
  expect(sorted((await Promise.all(many)).flatMap(numbers))).toEqual(range(1, 40));
});

test("a waiting receive ends with its time, its caller or its process; what it would have had stays", async () => {
  await using t = await openTestQueue("mq-pull");
  const client = openPuller(t, pullGroup({ leaseMs: 30_000 }));
  const startedAt = performance.now();
  expect(await client.receive({ waitMs: 300 })).toEqual([]);
  expect(performance.now() - startedAt).toBeGreaterThan(250);
  const gone = new AbortController();
  const [first, second] = [
    client.receive({ waitMs: 20_000, signal: gone.signal }),
    client.receive({ waitMs: 20_000, signal: gone.signal }),
  ];
  await Bun.sleep(30);
  gone.abort();
  expect(await Promise.all([first, second])).toEqual([[], []]);
  await t.publish("k", 1, 3);
  expect(await client.receive({ signal: AbortSignal.abort() })).toEqual([]);
  const all = await client.receive({ max: 10 });
  expect(shown(all)).toEqual(["1 attempt 1", "2 attempt 1", "3 attempt 1"]);
  const last = client.receive({ waitMs: 20_000 });
  await Bun.sleep(30);
  await client[Symbol.asyncDispose]();
  expect(await last).toEqual([]);
});

test("what is for another group, of another tag, expired, or no message, is finished unseen", async () => {
  await using t = await openTestQueue("mq-pull", { partitions: 1 });
  const { redis, keys } = t.store;
  await using client = openPuller(t, pullGroup({ tags: ["vip"], leaseMs: 30_000 }));
  const message = (n: number) => ({ type: "a", key: "k", tag: "vip", data: { n } });
  for (let n = 1; n <= 300; n++) await t.queue.publish(t.topic, { ...message(n), tag: "poor" });
  await t.queue.publish(t.topic, { ...message(301), expireAt: 1 });
  await redis.commands.xadd(keys.topic("t", 0), "*", "@t=vip;g=other;r=1 id a k  ", '{"n":302}');
  await redis.commands.xadd(keys.topic("t", 0), "*", "@t=vip id a k  ", "{not json");
  await t.queue.publish(t.topic, message(304));
  const received = await client.receive({ max: 10 });
  expect(numbers(received)).toEqual([304]);
  await client.ack(received[0]!.token);
  expect(await lagOf(t)).toBe(0);
  expect(await t.deadLetters("g")).toMatchObject([{ reason: "invalid" }]);
  expect((await t.store.metrics.expired.get()).values).toMatchObject([{ value: 1 }]);
});

test("a reply stays below its size: large messages come a few at a time", async () => {
  const topic = defineTopic("t", { schema: Numbered });
  await using t = await openTestQueue("mq-pull", { partitions: 1, topic });
  await using client = openPuller(t, pullGroup({ leaseMs: 30_000 }));
  const raw = `{"n":1${" ".repeat(200_000)}}`;
  for (let i = 0; i < 80; i++) await t.queue.publish(t.topic, { type: "a", raw });
  const received = await client.receive({ max: 100 });
  expect(received.length).toBeGreaterThan(10);
  expect(received.length).toBeLessThan(50);
});

test("members in process and services share a group: each message is handled once, losses of either come back", async () => {
  await using t = await openTestQueue("mq-pull");
  const options = { group: "g", mode: "concurrent", leaseMs: 1_000, inFlightMax: 10 } as const;
  const seen: number[] = [];
  const native: ConsumeOptions<Numbered> = {
    ...options,
    async handle({ data }) {
      await Bun.sleep(2);
      seen.push(data.n);
    },
  };
  await t.run(t.queue.consume(t.topic, native));
  await using client = openPuller(t, pullGroup());
  let isOver = false;
  const pulling = (async () => {
    for (let i = 0; !isOver; i++) {
      const received = await client.receive({ max: 10, waitMs: 200 });
      // Some are left to the end of their first lease: a member or a service has them then.
      const kept = received.filter(({ attempt }, j) => attempt > 1 || (i + j) % 5 !== 0);
      const outcomes = await client.ack(...kept.map(({ token }) => token));
      for (const [j, outcome] of outcomes.entries()) if (outcome === "ok") seen.push(kept[j]!.message.data.n);
    }
  })();
  for (let n = 1; n <= 400; n += 20) {
    await t.publish(`k${n}`, n, n + 19);
    await Bun.sleep(5);
  }
  await eventually(async () => expect(await lagOf(t)).toBe(0));
  isOver = true;
  await pulling;
  expect(sorted([...new Set(seen)])).toEqual(range(1, 400));
  // Once each, but for what a member lost while it stood still.
  expect(seen.length - 400).toBeLessThanOrEqual(await counted(t, "leasesLost"));
  expect(await counted(t, "takeovers")).toBeGreaterThan(0);
  expect(await t.deadLetters("g")).toEqual([]);
});

test("a seek refuses what services have in hand, and begins anew; a pause hands out nothing", async () => {
  await using t = await openTestQueue("mq-pull", { partitions: 1 });
  await using client = openPuller(t, pullGroup({ leaseMs: 30_000 }));
  await t.publish("k", 1, 3);
  const before = await client.receive({ max: 2 });
  await t.queue.control.seek(t.topic, "g", "first");
  const tokens = before.map(({ token }) => token);
  expect(await client.ack(...tokens)).toEqual(["lease_lost", "lease_lost"]);
  expect(await client.renew(5_000, ...tokens)).toEqual(["lease_lost", "lease_lost"]);
  expect(await client.nack(tokens[0]!, { kind: "retry" })).toBe("lease_lost");
  await t.queue.control.pause(t.topic, "g");
  const waiting = client.receive({ max: 10, waitMs: 20_000 });
  await Bun.sleep(200);
  await t.queue.control.resume(t.topic, "g");
  const after = await waiting;
  expect(shown(after)).toEqual(["1 attempt 1", "2 attempt 1", "3 attempt 1"]);
  expect(await client.ack(...after.map(({ token }) => token))).toEqual(["ok", "ok", "ok"]);
  expect(await lagOf(t)).toBe(0);
});

test.each(["concurrent", "ordered"] as const)(
  "%s: a receive that waits while its group is dropped does not make it anew",
  async (mode) => {
    await using t = await openTestQueue("mq-pull", { partitions: 2 });
    await using client = openPuller(t, pullGroup({ mode }));
    const waiting = client.receive({ waitMs: 2_500 });
    // In both partitions: its first look may still make it.
    const { keys, redis } = t.store;
    for (const partition of [0, 1]) {
      const groups = keys.groups("t", partition);
      await eventually(async () => expect(await redis.commands.hexists(groups, "g")).toBe(1));
    }
    await t.queue.control.dropGroup(t.topic, "g");
    await t.publish("k", 1, 3);
    expect(await waiting).toEqual([]);
    expect((await t.queue.describe(t.topic)).groups).toEqual([]);
  },
);

test("a group that was lost is made again, and nothing that came since is missed", async () => {
  await using t = await openTestQueue("mq-pull", { partitions: 1 });
  const { redis, keys } = t.store;
  await using client = openPuller(t, pullGroup({ leaseMs: 30_000 }));
  await t.publish("k", 1, 3);
  expect(await client.receive({ max: 2 })).toHaveLength(2);
  await redis.commands.xgroup("DESTROY", keys.topic("t", 0), "g");
  await t.publish("k", 4, 4);
  expect(numbers(await client.receive({ max: 10 }))).toEqual(range(1, 4));
  await redis.commands.del(keys.topic("t", 0), keys.groups("t", 0), keys.lease("t", 0, "g"), keys.retries("t", 0, "g"));
  await t.publish("k", 5, 6);
  expect(numbers(await client.receive({ max: 10 }))).toEqual([5, 6]);
});

test("inputs beyond the limits are refused by name", async () => {
  await using t = await openTestQueue("mq-pull", { partitions: 1 });
  await using client = openPuller(t, pullGroup());
  const refused = async (act: Promise<unknown>) => (await act.catch((error: unknown) => error)) as { issues: object[] };
  for (const [field, options] of [
    ["max", { max: 0 }],
    ["max", { max: 101 }],
    ["waitMs", { waitMs: 20_001 }],
    ["attemptId", { attemptId: "a b" }],
  ] as const) {
    expect(await refused(client.receive(options))).toMatchObject({ code: "INVALID", issues: [{ path: field }] });
  }
  expect(await refused(client.renew(10, "x"))).toMatchObject({ issues: [{ path: "leaseMs" }] });
  expect(await refused(client.ack(...new Array(1_001).fill("x")))).toMatchObject({ issues: [{ path: "tokens" }] });
  const nack = client.nack("x", { kind: "retry", retryAfterMs: -1 });
  expect(await refused(nack)).toMatchObject({ issues: [{ path: "retryAfterMs" }] });
  await using broadcast = openPuller(t, pullGroup({ mode: "broadcast" }));
  expect(await refused(broadcast.receive())).toMatchObject({ code: "INVALID" });
});

test.serial("waiting costs Redis little: a hundred waiting clients look once a second together", async () => {
  await using t = await openTestQueue("mq-pull");
  await using client = openPuller(t, pullGroup());
  const callsOf = async () => {
    const stats = (await t.store.redis.commands.info("commandstats")) as string;
    return Number(/cmdstat_evalsha:calls=(\d+)/.exec(stats)?.[1] ?? 0);
  };
  await client.receive();
  const start = await callsOf();
  const waiting = Array.from({ length: 100 }, () => client.receive({ waitMs: 3_000 }));
  // The first look of each, at 4 partitions.
  await eventually(async () => expect((await callsOf()) - start).toBeGreaterThanOrEqual(400));
  const before = await callsOf();
  await Bun.sleep(2_000);
  // 4 partitions, two or three looks; some more for whatever runs beside this test.
  expect((await callsOf()) - before).toBeLessThan(40);
  expect((await Promise.all(waiting)).flat()).toEqual([]);
});
