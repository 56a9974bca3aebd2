/** Consume transactions: the ack, writes and further messages of a handler, together or not at all, and once. */

import { describe, expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import {
  type ConsumeOptions,
  type DeliveryContext,
  defineTopic,
  type EffectInput,
  type Message,
  openQueue,
  type Queue,
} from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import type { RedisConnections } from "../../lib/redis/index.ts";
import { deafFor } from "../support/deaf.ts";
import { appended } from "../support/delayed.ts";
import { eventually } from "../support/eventually.ts";
import { Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";
import { refusal } from "../support/refusal.ts";
import { caughtUp, FORMS, type Form, numbersIn } from "../support/transactions.ts";
import { sendTwice } from "../support/twice.ts";

const next = defineTopic("next", { schema: Numbered });
/** None ends while the test's process stands still. */
const LONG_MS = 30_000;

/** A group of either mode, with a handler that sees one message or many. */
function groupOf(
  [mode, kind]: Form,
  handle: (messages: readonly Message<Numbered>[], context: DeliveryContext) => unknown,
  leaseMs: number,
): ConsumeOptions<Numbered> {
  const base = { group: "g", mode, backoff: [5], leaseMs, maxAttempts: Number.POSITIVE_INFINITY } as const;
  return kind === "single"
    ? { ...base, handle: (message, context) => handle([message], context) }
    : { ...base, handleBatch: handle };
}

const sumOf = (messages: readonly Message<Numbered>[]) => messages.reduce((sum, { data }) => sum + data.n, 0);
const nextOf = (messages: readonly Message<Numbered>[]) =>
  messages.map(({ key, data }) => ({ topic: next, input: { type: "next", key, data } }));

async function total(t: TestQueue, key = "k"): Promise<number> {
  return Number((await t.store.redis.commands.get(t.queue.own(key, "sum").key)) ?? 0);
}

function memberOver(t: TestQueue, redis: RedisConnections): Queue {
  const { keys, metrics } = t.store;
  return openQueue({ redis, keys, metrics, clock: systemClock, log: silentLog, member: "m" });
}

describe.each(FORMS)("%s group, %s handler", (...form) => {
  const open = () => openTestQueue("mq-transact");
  const consume = (
    t: TestQueue,
    handle: (messages: readonly Message<Numbered>[], context: DeliveryContext) => unknown,
    { queue = t.queue, leaseMs = LONG_MS }: { queue?: Queue; leaseMs?: number } = {},
  ) => t.run(queue.consume(t.topic, groupOf(form, handle, leaseMs)));

  test("ack, writes and next messages are one", async () => {
    await using t = await open();
    await consume(t, (messages, { commit }) =>
      commit({ writes: [["INCRBY", "sum", sumOf(messages)]], publish: nextOf(messages) }),
    );
    await t.publish("k", 1, 100);
    await caughtUp(t);
    expect(await total(t)).toBe(5_050);
    expect(await numbersIn(t, "next")).toEqual(range(1, 100));
    const { values } = await t.store.metrics.published.get();
    expect(values).toContainEqual({ value: 100, labels: { topic: "next" } });
    expect((await t.store.metrics.acked.get()).values).toMatchObject([{ value: 100 }]);
  });

  test("what a handler throws behind its commit changes nothing", async () => {
    await using t = await open();
    await consume(t, async (messages, { commit }) => {
      await commit({ writes: [["INCRBY", "sum", sumOf(messages)]] });
      throw new Error("too late");
    });
    await t.publish("k", 1, 30);
    await caughtUp(t);
    expect(await total(t)).toBe(465);
    expect(await t.deadLetters("g")).toEqual([]);
  });

  test("a write that is not possible refuses all of it, and the message is tried again", async () => {
    await using t = await open();
    const { commands } = t.store.redis;
    const { key } = t.queue.own("k", "sum");
    await commands.set(key, "no number");
    const codes = new Set<string>();
    await consume(t, async (messages, { commit }) => {
      const effect = { writes: [["SET", "seen", "x"] as const, ["INCRBY", "sum", sumOf(messages)] as const] };
      await commit({ ...effect, publish: nextOf(messages) }).catch((error: AppError) => {
        codes.add(`${error.code} ${error.issues?.[0]?.path}`);
        throw error;
      });
    });
    await t.publish("k", 1, 3);
    await eventually(() => expect([...codes]).toEqual(["INVALID writes.1"]));
    expect(await commands.exists(t.queue.own("k", "seen").key)).toBe(0);
    expect(await numbersIn(t, "next")).toEqual([]);
    await commands.del(key);
    await caughtUp(t);
    expect(await total(t)).toBe(6);
    expect(await numbersIn(t, "next")).toEqual([1, 2, 3]);
  });

  test("a handler that goes on after a refusal has acked without effect; a second commit is refused", async () => {
    await using t = await open();
    const codes: string[] = [];
    const note = (error: AppError) => void codes.push(error.code);
    await consume(t, async (messages, { commit }) => {
      if (sumOf(messages) === 1) return commit({ writes: [["SET", "bad name", ""]] }).catch(note);
      await commit({ writes: [["INCRBY", "sum", 1]] });
      await commit({ writes: [["INCRBY", "sum", 1]] }).catch(note);
    });
    await t.publish("k", 1, 1);
    await caughtUp(t);
    await t.publish("k", 2, 2);
    await eventually(() => expect(codes).toEqual(["INVALID", "INVALID"]));
    await caughtUp(t);
    expect(await total(t)).toBe(1);
  });

  test("answers that are lost change nothing: each is done once", async () => {
    await using t = await open();
    const script = form[0] === "ordered" ? "mqLeaseCommit" : "mqAckWith";
    const queue = memberOver(t, deafFor(t.store.redis, script, 5));
    await consume(
      t,
      (messages, { commit }) => commit({ writes: [["INCRBY", "sum", sumOf(messages)]], publish: nextOf(messages) }),
      // So short that some leases end before an answer is heard.
      { queue, leaseMs: 1_000 },
    );
    for (const from of range(0, 9)) {
      await t.publish("k", 10 * from + 1, 10 * from + 10);
      await Bun.sleep(5);
    }
    await caughtUp(t);
    expect(await total(t)).toBe(5_050);
    expect(await numbersIn(t, "next")).toEqual(range(1, 100));
  });

  test("scripts that are sent twice change nothing: each is done once", async () => {
    await using t = await open();
    sendTwice(t.store.redis.commands, { isHandOut: (script) => script === "mqClaim" });
    await consume(t, (messages, { commit }) =>
      commit({ writes: [["INCRBY", "sum", sumOf(messages)]], publish: nextOf(messages) }),
    );
    const input = { type: "numbered", key: "k" };
    await t.queue.publishMany(
      t.topic,
      range(1, 100).map((n) => ({ ...input, data: { n }, dedupId: String(n) })),
    );
    await caughtUp(t);
    expect(await total(t)).toBe(5_050);
    expect(await numbersIn(t, "next")).toEqual(range(1, 100));
  });

  test("who lost the lease meanwhile is refused, and another does it", async () => {
    await using t = await open();
    const errors: AppError[] = [];
    let isFirst = true;
    await consume(t, async (messages, { commit }) => {
      if (isFirst) {
        isFirst = false;
        await steal(t, form, messages[0]!);
      }
      await commit({ writes: [["INCRBY", "sum", sumOf(messages)]] }).catch((error: AppError) => {
        errors.push(error);
        throw error;
      });
    });
    await t.publish("k", 1, 1);
    await eventually(async () => expect(await total(t)).toBe(1));
    await caughtUp(t);
    expect(errors.map(({ code }) => code)).toEqual(["LEASE_LOST"]);
    expect(await total(t)).toBe(1);
  });

  test("a full topic refuses the transaction until there is room", async () => {
    await using t = await open();
    const narrow = defineTopic("narrow", { schema: Numbered, lengthMax: 40, backlogMax: 40 });
    const late = await t.run(t.member("late").consume(narrow, { group: "late", mode: "ordered", handle: () => 0 }));
    await late.stop(AbortSignal.timeout(5_000));
    const codes = new Set<string>();
    await consume(t, async (messages, { commit }) => {
      const publish = messages.map(({ key, data }) => ({ topic: narrow, input: { type: "next", key, data } }));
      await commit({ publish, writes: [["INCRBY", "sum", sumOf(messages)]] }).catch((error: AppError) => {
        codes.add(error.code);
        throw error;
      });
    });
    // A partition of four takes ten.
    await t.publish("k", 1, 10);
    await eventually(async () => expect(await total(t)).toBe(55));
    await t.publish("k", 11, 12);
    await eventually(() => expect(codes).toContain("RATE_LIMITED"));
    expect(await total(t)).toBe(55);
    const seen: number[] = [];
    await t.run(t.queue.consume(narrow, { group: "late", mode: "ordered", handle: ({ data }) => seen.push(data.n) }));
    await eventually(async () => expect(await total(t)).toBe(78));
    await caughtUp(t);
    await eventually(() => expect(seen.sort((a, b) => a - b)).toEqual(range(1, 12)));
  });
});

test("a key goes on when the handler that committed its message has returned: keys keep their order", async () => {
  await using t = await openTestQueue("mq-transact");
  const faults: string[] = [];
  const begun = new Map<string, number>();
  const ended = new Map<string, number>();
  await t.run(
    t.queue.consume(t.topic, {
      // Of 140 messages that fail every other time, one in a thousand runs fails as often as the default allows.
      ...{ group: "g", mode: "ordered", backoff: [1], maxAttempts: Number.POSITIVE_INFINITY },
      async handle({ key, data: { n } }, { commit }) {
        if ((ended.get(key) ?? 0) !== n - 1) faults.push(`${key}: ${n} was handed out behind ${ended.get(key)}`);
        begun.set(key, n);
        if (n % 7 === 0 && Math.random() < 0.5) throw new Error("not yet");
        if (n % 3 === 0) await Bun.sleep(2 * Math.random());
        await commit({
          writes: [["INCRBY", "sum", n]],
          publish: [{ topic: next, input: { type: "next", key, data: { n } } }],
        });
        await Bun.sleep(2 * Math.random());
        ended.set(key, n);
      },
    }),
  );
  const keys = range(1, 20).map((i) => `k${i}`);
  for (const key of keys) await t.publish(key, 1, 50);
  await caughtUp(t);
  expect(faults).toEqual([]);
  expect(begun.size).toBe(20);
  for (const key of keys) {
    const stream = t.store.keys.topic("next", t.store.keys.partitionOf(key));
    const entries = await t.store.redis.commands.xrange(stream, "-", "+");
    const own = entries.filter(([, fields]) => fields[0]!.split(" ")[2] === key);
    expect(own.map(([, fields]) => (JSON.parse(fields[1]!) as Numbered).n)).toEqual(range(1, 50));
  }
});

test("messages of a key that stands aside are committed like others, in order", async () => {
  await using t = await openTestQueue("mq-transact");
  let isBroken = true;
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered", backoff: [1], maxAttempts: 2, onPoison: "park" },
      async handle({ key, data: { n } }, { commit }) {
        if (isBroken && key === "bad") throw new Error("broken");
        await commit({
          writes: [["INCRBY", "sum", n]],
          publish: [{ topic: next, input: { type: "next", key, data: { n } } }],
        });
        if (n % 5 === 0) throw new Error("too late");
      },
    }),
  );
  await t.publish("bad", 1, 30);
  await t.publish("k", 101, 103);
  await eventually(async () => expect(await total(t)).toBe(306));
  await eventually(async () => {
    expect((await t.queue.describe(t.topic)).groups).toMatchObject([{ parkedKeys: 1, sideMessages: 30 }]);
  });
  isBroken = false;
  await t.queue.aside.unpark(t.topic, "g", "bad");
  await t.publish("bad", 31, 40);
  await eventually(async () => expect(await total(t, "bad")).toBe(820 + (samePartition(t) ? 306 : 0)));
  await caughtUp(t);
  expect((await t.queue.describe(t.topic)).groups).toMatchObject([{ parkedKeys: 0, sideMessages: 0 }]);
  const stream = t.store.keys.topic("next", t.store.keys.partitionOf("bad"));
  const entries = await t.store.redis.commands.xrange(stream, "-", "+");
  const numbers = entries.map(([, fields]) => (JSON.parse(fields[1]!) as Numbered).n).filter((n) => n < 100);
  expect(numbers).toEqual(range(1, 40));
  expect(await t.deadLetters("g")).toEqual([]);
});

const samePartition = ({ store: { keys } }: TestQueue) => keys.partitionOf("k") === keys.partitionOf("bad");

test("next messages may be delayed, and of any partition", async () => {
  await using t = await openTestQueue("mq-transact");
  await t.run(t.queue.createTimers());
  const { partitionOf } = t.store.keys;
  const [here, there] = [
    "k",
    range(1, 50)
      .map((i) => `far${i}`)
      .find((key) => partitionOf(key) !== partitionOf("k"))!,
  ];
  const deliverAt = Date.now() + 1_500;
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered" },
      async handle({ data: { n } }, { commit }) {
        const input = { type: "next", data: { n } };
        await commit({
          publish: [
            { topic: next, input: { ...input, key: here, data: { n: 1 } } },
            { topic: next, input: { ...input, key: there, data: { n: 2 } } },
            { topic: next, input: { ...input, key: here, data: { n: 3 }, deliverAt } },
            { topic: next, input: { ...input, key: there, data: { n: 4 }, deliverAt } },
            { topic: next, input: { ...input, data: { n: 5 } } },
            { topic: next, input: { ...input, key: here, data: { n: 6 }, dedupId: "once" } },
            { topic: next, input: { ...input, key: here, data: { n: 7 }, dedupId: "once" } },
          ],
        });
      },
    }),
  );
  await t.publish("k", 1, 1);
  await caughtUp(t);
  expect(await numbersIn(t, "next")).toEqual(expect.arrayContaining([1, 5, 6]));
  await eventually(async () => expect(await numbersIn(t, "next")).toEqual([1, 2, 3, 4, 5, 6]));
  const late = (await appended(t, "next")).filter(({ n }) => n === 3 || n === 4);
  expect(late.filter(({ at }) => at < deliverAt)).toEqual([]);
});

test("what does not fit is refused with its field, and so is what the layer rules forbid", async () => {
  await using t = await openTestQueue("mq-transact");
  const { redis, keys, metrics } = t.store;
  const may = {
    publish(topic: string) {
      if (topic === "next") throw new AppError("LAYER_VIOLATION", "not you");
    },
    consume: () => undefined,
  };
  const queue = openQueue({ redis, keys, metrics, clock: systemClock, log: silentLog, member: "m", may });
  const open = defineTopic("open", { schema: Numbered });
  const valid = { type: "next", key: "k", data: { n: 1 } };
  const wrong: [EffectInput, string][] = [
    [{ publish: Array.from({ length: 65 }, () => ({ topic: open, input: valid })) }, "INVALID publish"],
    [{ publish: [{ topic: open, input: { ...valid, data: { n: "1" } } }] }, "INVALID data.n"],
    [{ publish: [{ topic: open, input: { ...valid, key: "far away" } }] }, "INVALID key"],
    [{ publish: [{ topic: open, input: { ...valid, deliverAt: Number.MAX_SAFE_INTEGER } }] }, "INVALID deliverAt"],
    [{ publish: [{ topic: next, input: valid }] }, "LAYER_VIOLATION undefined"],
    [{ writes: [["SET", "k", "v", "NX"] as unknown as ["SET", string, string]] }, "INVALID writes.0"],
    [
      {
        publish: range(1, 5).map(() => ({
          topic: open,
          input: { ...valid, data: undefined, raw: `{"n":1${" ".repeat(250_000)}}` },
        })),
      },
      "TOO_LARGE publish",
    ],
  ];
  const found: string[] = [];
  await t.run(
    queue.consume(t.topic, {
      ...{ group: "g", mode: "concurrent" },
      async handle(_, { commit }) {
        for (const [effect] of wrong) {
          const error = await refusal(commit(effect));
          found.push(`${error.code} ${error.issues?.[0]?.path}`);
        }
        await commit();
      },
    }),
  );
  await t.publish("k", 1, 1);
  await caughtUp(t);
  expect(found).toEqual(wrong.map(([, expected]) => expected));
  expect(await numbersIn(t, "open")).toEqual([]);
});

test("a broadcast group has no transactions", async () => {
  await using t = await openTestQueue("mq-transact");
  const errors: AppError[] = [];
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "broadcast", start: "first" },
      handle: (_, { commit }) => commit().catch((error: AppError) => errors.push(error)),
    }),
  );
  await t.publish("k", 1, 1);
  await eventually(() => expect(errors.map(({ code }) => code)).toEqual(["INVALID"]));
});

/** Makes another the holder of what the handler has in hand, one whose lease is over. */
async function steal(t: TestQueue, [mode]: Form, { entry, partition }: Message<Numbered>): Promise<void> {
  const { keys, redis } = t.store;
  if (mode === "ordered") {
    const lease = keys.lease("t", partition, "g");
    const token = await redis.commands.hget(lease, "token");
    await redis.commands.hset(lease, { owner: "thief", token: String(Number(token) + 1), until: 0 });
  } else {
    const stream = keys.topic("t", partition);
    await redis.commands.call("XCLAIM", stream, "g", "thief", "0", entry, "IDLE", String(LONG_MS));
  }
}
