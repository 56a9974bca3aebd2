/** Publishing together with writes of the user's own: both or neither, once per dedupe id, whatever lies at the keys. */

import { expect, test } from "bun:test";
import fc from "fast-check";
import { systemClock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { openQueue, type Write } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { digestOf, openTestQueue, type TestQueue } from "../support/queue.ts";
import { refusal } from "../support/refusal.ts";

const KEY = "customer-7";
const input = (n: number, more: { dedupId?: string; id?: string } = {}) => ({
  type: "made",
  key: KEY,
  data: { n },
  ...more,
});

const at = (t: TestQueue, name: string) => t.queue.own(KEY, name).key;
const length = (t: TestQueue) => t.store.redis.commands.xlen(t.store.keys.topic("t", t.store.keys.partitionOf(KEY)));

test("every command does what Redis' does, in the script that appends the message", async () => {
  await using t = await openTestQueue("mq-writes");
  const { commands } = t.store.redis;
  await t.queue.publishWith(t.topic, input(1), [
    ["SET", "text", "a"],
    ["SET", "gone", "b"],
    ["DEL", "gone"],
    ["INCRBY", "count", 5],
    ["INCRBY", "count", -7],
    ["PEXPIRE", "count", 60_000],
    ["HSET", "fields", "a", 1, "b", "x", "c", 2],
    ["HDEL", "fields", "b"],
    ["HINCRBY", "fields", "a", 41],
    ["SADD", "set", "m", "n"],
    ["SREM", "set", "n"],
    ["ZADD", "scores", 1, "low", 2.5, "high", 3, "out"],
    ["ZINCRBY", "scores", 0.5, "low"],
    ["ZREM", "scores", "out"],
    ["RPUSH", "list", "b", "c"],
    ["LPUSH", "list", "a"],
  ]);
  expect(await commands.get(at(t, "text"))).toBe("a");
  expect(await commands.exists(at(t, "gone"))).toBe(0);
  expect(await commands.get(at(t, "count"))).toBe("-2");
  expect(await commands.pttl(at(t, "count"))).toBeGreaterThan(50_000);
  expect(await commands.hgetall(at(t, "fields"))).toEqual({ a: "42", c: "2" });
  expect(await commands.smembers(at(t, "set"))).toEqual(["m"]);
  expect(await commands.zrange(at(t, "scores"), "0", "-1", "WITHSCORES")).toEqual(["low", "1.5", "high", "2.5"]);
  expect(await commands.lrange(at(t, "list"), 0, -1)).toEqual(["a", "b", "c"]);
  expect(await length(t)).toBe(1);
});

test("a repeat under the same dedupId or id answers with the original and writes nothing", async () => {
  await using t = await openTestQueue("mq-writes");
  const writes: Write[] = [["INCRBY", "sold", 1]];
  for (const named of [{ dedupId: "order 7" }, { id: "order-8" }]) {
    const first = await t.queue.publishWith(t.topic, input(1, named), writes);
    expect(first.duplicate).toBe(false);
    const [again, other] = await Promise.all([
      t.queue.publishWith(t.topic, input(1, named), writes),
      t.queue.publishWith(t.topic, input(1, named), [["SET", "sold", "none"]]),
    ]);
    expect([again, other]).toEqual([
      { ...first, duplicate: true },
      { ...first, duplicate: true },
    ]);
  }
  // What publish remembers, publishWith knows, and the other way round.
  await t.queue.publish(t.topic, input(3, { dedupId: "order 9" }));
  expect((await t.queue.publishWith(t.topic, input(3, { dedupId: "order 9" }), writes)).duplicate).toBe(true);
  expect((await t.queue.publish(t.topic, input(1, { dedupId: "order 7" }))).duplicate).toBe(true);
  expect(await t.store.redis.commands.get(at(t, "sold"))).toBe("2");
  expect(await length(t)).toBe(3);
});

test("a delayed message is kept until it is due, by the script that writes; a repeat does neither again", async () => {
  await using t = await openTestQueue("mq-writes");
  const later = { ...input(1, { dedupId: "order 7" }), deliverAt: Date.now() + 60_000 };
  const first = await t.queue.publishWith(t.topic, later, [["INCRBY", "sold", 1]]);
  expect(first).toMatchObject({ entry: "", duplicate: false, deliverAt: later.deliverAt });
  expect(await t.queue.publishWith(t.topic, later, [["INCRBY", "sold", 1]])).toEqual({ ...first, duplicate: true });
  expect(await t.queue.delayed.get(first.id)).toMatchObject({ state: "PENDING", raw: '{"n":1}' });
  const refused = await refusal(
    t.queue.publishWith(t.topic, { ...later, dedupId: "order 8" }, [["SADD", "sold", "m"]]),
  );
  expect(refused.issues![0]!.path).toBe("writes.0");
  expect((await t.queue.delayed.list()).messages.length).toBe(1);
  expect(await t.store.redis.commands.get(at(t, "sold"))).toBe("1");
  expect(await t.queue.delayed.sendNow(first.id)).toBe("ok");
  expect(await length(t)).toBe(1);
});

const POSSIBLE: readonly Write[] = [
  ["SET", "k", "v"],
  ["INCRBY", "k", 1],
  ["HSET", "k", "f", "v"],
  ["HDEL", "k", "f"],
  ["HINCRBY", "k", "f", 1],
  ["SADD", "k", "m"],
  ["SREM", "k", "m"],
  ["ZADD", "k", 1, "m"],
  ["ZINCRBY", "k", 1, "m"],
  ["ZREM", "k", "m"],
  ["RPUSH", "k", "v"],
  ["LPUSH", "k", "v"],
];

test.each(POSSIBLE.map((write) => [write[0], write] as const))(
  "%s on a key of another type refuses the message and all writes",
  async (_, write) => {
    await using t = await openTestQueue("mq-writes");
    await t.store.redis.commands.xadd(at(t, "k"), "*", "a", "stream");
    const before = await digestOf(t.store);
    const error = await refusal(t.queue.publishWith(t.topic, input(1), [["SET", "other", "x"], write]));
    expect(error.code).toBe("INVALID");
    expect(error.issues![0]).toMatchObject({
      path: "writes.1",
      message: expect.stringContaining("its key holds a stream, not a "),
    });
    expect(await digestOf(t.store)).toEqual(before);
  },
);

test.each<[string, Write[], number, string]>([
  ["text", [["INCRBY", "text", 1]], 0, "holds no integer"],
  ["a field's text", [["HINCRBY", "fields", "text", 1]], 0, "holds no integer"],
  [
    "text of the same call",
    [
      ["SET", "new", "x"],
      ["INCRBY", "new", 1],
    ],
    1,
    "holds no integer",
  ],
  [
    "a field's text of the same call",
    [
      ["HSET", "fields", "n", "x"],
      ["HINCRBY", "fields", "n", 1],
    ],
    1,
    "holds no integer",
  ],
  ["a form that Redis does not count with", [["INCRBY", "padded", 1]], 0, "holds no integer"],
  ["more than 2^53", [["INCRBY", "huge", 1]], 0, "holds no integer within 2^53"],
  [
    "a sum beyond 2^53",
    [
      ["INCRBY", "n", Number.MAX_SAFE_INTEGER],
      ["INCRBY", "n", 10],
    ],
    1,
    "would leave the integers within 2^53",
  ],
  [
    "a type of the same call",
    [
      ["SADD", "new", "m"],
      ["ZADD", "new", 1, "m"],
    ],
    1,
    "holds a set, not a zset",
  ],
])("no addition to %s", async (_, writes, index, message) => {
  await using t = await openTestQueue("mq-writes");
  const { commands } = t.store.redis;
  await commands.mset(at(t, "text"), "x", at(t, "padded"), "01", at(t, "huge"), "9223372036854775807");
  await commands.hset(at(t, "fields"), "text", "x", "n", "1");
  const before = await digestOf(t.store);
  const error = await refusal(t.queue.publishWith(t.topic, input(1), writes));
  expect(error.issues).toEqual([{ path: `writes.${index}`, message: expect.stringContaining(message) }]);
  expect(await digestOf(t.store)).toEqual(before);
});

test("a write is judged by what those before it made of its key", async () => {
  await using t = await openTestQueue("mq-writes");
  const { commands } = t.store.redis;
  await commands.set(at(t, "k"), "x");
  await commands.hset(at(t, "fields"), "n", "x");
  await t.queue.publishWith(t.topic, input(1), [
    ["DEL", "k"],
    ["HINCRBY", "k", "n", 2],
    ["HDEL", "fields", "n"],
    ["HINCRBY", "fields", "n", 3],
    ["HSET", "fields", "m", 5],
    ["HINCRBY", "fields", "m", -1],
  ]);
  expect(await commands.hgetall(at(t, "k"))).toEqual({ n: "2" });
  expect(await commands.hgetall(at(t, "fields"))).toEqual({ n: "3", m: "4" });
});

test("form and limits are refused with the field, before Redis is asked", async () => {
  await using t = await openTestQueue("mq-writes");
  const pathsOf = async (writes: unknown) =>
    (await refusal(t.queue.publishWith(t.topic, input(1), writes as Write[]))).issues!.map(({ path }) => path);
  expect(await pathsOf([["FLUSHALL"]])).toEqual(["writes.0.0"]);
  expect(await pathsOf([["toString", "k"]])).toEqual(["writes.0.0"]);
  expect(
    await pathsOf([
      ["SET", "a:b", "v"],
      ["SET", "", "v"],
      ["SET", "k".repeat(129), "v"],
    ]),
  ).toEqual(["writes.0.1", "writes.1.1", "writes.2.1"]);
  expect(
    await pathsOf([
      ["SET", "k", "v", "NX"],
      ["SET", "k"],
      ["HSET", "k", "f"],
      ["SADD", "k"],
    ]),
  ).toEqual([...["writes.0", "writes.1", "writes.2", "writes.3"]]);
  expect(
    await pathsOf([
      ["INCRBY", "k", 1.5],
      ["INCRBY", "k", "1"],
      ["ZADD", "k", Number.NaN, "m"],
      ["PEXPIRE", "k", 0],
      ["SET", "k", { a: 1 }],
    ]),
  ).toEqual(["writes.0.2", "writes.1.2", "writes.2.2", "writes.3.2", "writes.4.2"]);
  expect(await pathsOf(Array.from({ length: 65 }, () => ["DEL", "k"]))).toEqual(["writes"]);
  expect(await pathsOf([["RPUSH", "k", ...Array.from({ length: 129 }, () => "v")]])).toEqual(["writes.0"]);
  const tooLarge = await refusal(t.queue.publishWith(t.topic, input(1), [["SET", "k", "ä".repeat(131_072)]]));
  expect(tooLarge.code).toBe("TOO_LARGE");
  expect(tooLarge.message).toContain("262145 bytes; the limit is 262144");
  const keyless = await refusal(t.queue.publishWith(t.topic, { type: "made", data: { n: 1 } }, []));
  expect(keyless.issues).toEqual([{ path: "key", message: "is required: the writes lie in its partition" }]);
  expect(() => t.queue.own(KEY, "a b")).toThrow("writes refused: name must be 1..128");
  expect(await t.store.redis.commands.keys(`${t.store.prefix}*`)).toEqual([]);
});

const name = fc.constantFrom("a", "b", "c");
const text = fc.constantFrom("x", "7", "-3", "007");
const whole = fc.integer({ min: -9, max: 9 });
const anyWrite: fc.Arbitrary<Write> = fc.oneof(
  fc.tuple(fc.constant("SET" as const), name, text),
  fc.tuple(fc.constant("DEL" as const), name),
  fc.tuple(fc.constant("INCRBY" as const), name, whole),
  fc.tuple(fc.constant("HSET" as const), name, text, text),
  fc.tuple(fc.constant("HDEL" as const), name, text),
  fc.tuple(fc.constant("HINCRBY" as const), name, text, whole),
  fc.tuple(fc.constantFrom("SADD" as const, "SREM" as const, "ZREM" as const, "RPUSH" as const), name, text),
  fc.tuple(fc.constant("ZADD" as const), name, whole, text),
  fc.tuple(fc.constant("ZINCRBY" as const), name, whole, text),
);

test("whatever is asked: all of it as Redis alone would do it, or nothing", async () => {
  await using t = await openTestQueue("mq-writes", { partitions: 1 });
  const { commands } = t.store.redis;
  const plainly = async (writes: readonly Write[]) => {
    for (const [command, key, ...given] of writes) {
      await commands.call(command, `${t.store.prefix}:${key}`, ...given.map(String));
    }
  };
  const stateOf = (keys: readonly string[]) =>
    Promise.all(keys.map(async (key) => [await commands.type(key), (await commands.dumpBuffer(key))?.toString("hex")]));
  const own = ["a", "b", "c"].map((each) => t.queue.own(KEY, each).key);
  const plain = ["a", "b", "c"].map((each) => `${t.store.prefix}:${each}`);
  let done = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(anyWrite, { minLength: 1, maxLength: 8 }), async (writes) => {
      const before = await stateOf(own);
      const appended = await length(t);
      const error = await t.queue.publishWith(t.topic, input(1), writes).then(
        () => undefined,
        (thrown: unknown) => thrown as AppError,
      );
      if (error) {
        expect(error.code).toBe("INVALID");
        expect(await stateOf(own)).toEqual(before);
        expect(await length(t)).toBe(appended);
        return;
      }
      done += 1;
      await plainly(writes);
      expect(await stateOf(own)).toEqual(await stateOf(plain));
      expect(await length(t)).toBe(appended + 1);
    }),
    { numRuns: 400, endOnFailure: true },
  );
  expect(done).toBeGreaterThan(20);
});

test("the layer rules are asked, and a refusal writes nothing", async () => {
  await using t = await openTestQueue("mq-writes");
  const { redis, keys, metrics } = t.store;
  const may = {
    publish: () => {
      throw new AppError("LAYER_VIOLATION", "not you");
    },
    consume: () => undefined,
  };
  const queue = openQueue({ redis, keys, metrics, clock: systemClock, log: silentLog, member: "n", may });
  expect((await refusal(queue.publishWith(t.topic, input(1), [["SET", "k", "v"]]))).code).toBe("LAYER_VIOLATION");
  expect(await redis.commands.exists(at(t, "k"))).toBe(0);
});
