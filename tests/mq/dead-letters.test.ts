/** Looking into dead letters: what a letter tells, pages over all partitions, filters, bounds. */

import { describe, expect, test } from "bun:test";
import { Bury, type DeadLetterQuery, type StoredDeadLetter } from "../../lib/mq/index.ts";
import { keyOfEach, type PlantedLetter, plantLetters } from "../support/dead-letters.ts";
import { eventually } from "../support/eventually.ts";
import { openTestQueue, range, type TestQueue } from "../support/queue.ts";

const ids = (letters: readonly StoredDeadLetter[]) => letters.map(({ id }) => id);

/** All pages from the newest on. */
async function pages(t: TestQueue, query: DeadLetterQuery): Promise<StoredDeadLetter[][]> {
  const all: StoredDeadLetter[][] = [];
  for (let before: string | undefined; all.length < 1_000; ) {
    const page = await t.queue.deadLetters.list("t", "g", { ...query, ...(before === undefined ? {} : { before }) });
    all.push([...page.letters]);
    if (page.next === undefined) return all;
    before = page.next;
  }
  throw new Error("the pages do not end");
}

test("a letter tells the whole story of its message", async () => {
  await using t = await openTestQueue("mq-letters");
  let calls = 0;
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "concurrent", maxAttempts: 3, backoff: [1] },
      handle() {
        calls += 1;
        throw new Error(`failure ${calls}`);
      },
    }),
  );
  const { id, entry, partition } = await t.queue.publish(t.topic, {
    ...{ type: "numbered", key: "k", data: { n: 7 }, tag: "vip", sequence: 41, properties: { a: "b" } },
  });
  let letter: StoredDeadLetter | undefined;
  await eventually(async () => {
    [letter] = (await t.queue.deadLetters.list("t", "g")).letters;
    expect(letter).toBeDefined();
  });
  expect(letter).toMatchObject({
    ...{ messageId: id, topic: "t", group: "g", key: "k", type: "numbered", tag: "vip", data: '{"n":7}' },
    ...{ properties: '{"a":"b"}', reason: "attempts", firstError: "Error: failure 1", lastError: "Error: failure 3" },
    ...{ attemptCount: 3, member: "m", redrives: 0, sequence: 41, originSequence: undefined, entry },
    time: Number(entry.split("-")[0]),
  });
  expect(letter!.attempts.map(({ member, error }) => [member, error])).toEqual(
    [1, 2, 3].map((n) => ["m", `Error: failure ${n}`]),
  );
  expect(letter!.firstFailureAt).toBe(letter!.attempts[0]!.at);
  expect(letter!.buriedAt).toBeGreaterThanOrEqual(letter!.time);
  expect(letter!.id).toStartWith(`${partition}-${letter!.buriedAt}-`);
  expect(await t.queue.deadLetters.get("t", "g", letter!.id)).toEqual(letter!);
});

test("get tells nothing of what is not there, and refuses what is no id", async () => {
  await using t = await openTestQueue("mq-letters");
  const { deadLetters } = t.queue;
  expect(await deadLetters.get("t", "g", "0-1-0")).toBeUndefined();
  expect(await deadLetters.get("t", "g", "99-1-0")).toBeUndefined();
  for (const id of ["", "1-1", "a-1-1", "1-1-1-1", "-1-1-1", "*"]) {
    await expect(deadLetters.get("t", "g", id)).rejects.toMatchObject({ code: "INVALID" });
  }
});

describe("pages", () => {
  test("come newest first over all partitions, each letter once, also where moments coincide", async () => {
    await using t = await openTestQueue("mq-letters");
    const letters: PlantedLetter[] = [];
    // Three letters of each partition per ms: the order among partitions is decided by their number.
    for (const ms of range(1, 20)) {
      for (const count of [0, 1, 2]) {
        for (const partition of [0, 1, 2, 3]) letters.push({ partition, at: `${ms}-${count}` });
      }
    }
    await plantLetters(t, letters);
    const expected = letters.map(({ partition, at }) => `${partition}-${at}`).reverse();
    for (const limit of [1, 7, 50, 200]) {
      const found = await pages(t, { limit });
      expect(ids(found.flat())).toEqual(expected);
      expect(found.slice(0, -1).every((page) => page.length === limit)).toBe(true);
    }
  });

  test("stand still while letters come and go", async () => {
    await using t = await openTestQueue("mq-letters");
    await plantLetters(
      t,
      range(1, 40).map((n) => ({ partition: n % 4, at: `${n}-0` })),
    );
    const first = await t.queue.deadLetters.list("t", "g", { limit: 10 });
    // Newer ones, the last one shown, and one of the next page.
    await plantLetters(t, [{ partition: 1, at: "100-0" }]);
    await t.store.redis.commands.xdel(t.store.keys.deadLetters("t", 31 % 4, "g"), "31-0");
    await t.store.redis.commands.xdel(t.store.keys.deadLetters("t", 28 % 4, "g"), "28-0");
    const second = await t.queue.deadLetters.list("t", "g", { limit: 10, before: first.next! });
    expect(ids(second.letters)).toEqual([30, 29, 27, 26, 25, 24, 23, 22, 21, 20].map((n) => `${n % 4}-${n}-0`));
  });

  test("a rare match is found by going on, each call looking at a bounded number", async () => {
    await using t = await openTestQueue("mq-letters");
    const letters = range(1, 5_000).map(
      (n): PlantedLetter => ({
        partition: n % 2,
        at: `${n}-0`,
        n,
        error: n % 2_400 === 1 ? "Error: rare" : "Error: no",
      }),
    );
    await plantLetters(t, letters);
    const found = await pages(t, { error: "rare", limit: 200 });
    expect(found.flat().map(({ messageId }) => messageId)).toEqual(["id-4801", "id-2401", "id-1"]);
    expect(found.length).toBeGreaterThan(1);
    expect(found.length).toBeLessThan(10);
  });

  test("are cut by bytes before they are read", async () => {
    await using t = await openTestQueue("mq-letters");
    const data = JSON.stringify("x".repeat(250_000));
    await plantLetters(
      t,
      range(1, 40).map((n) => ({ partition: n % 4, at: `${n}-0`, data })),
    );
    const found = await pages(t, { limit: 200 });
    expect(ids(found.flat())).toEqual(
      range(1, 40)
        .map((n) => `${n % 4}-${n}-0`)
        .reverse(),
    );
    for (const page of found) expect(page.length).toBeLessThanOrEqual(17);
  });
});

describe("filters", () => {
  test("by key, looking into its partition only", async () => {
    await using t = await openTestQueue("mq-letters");
    const keys = keyOfEach(t);
    await plantLetters(
      t,
      range(1, 20).map((n) => ({ partition: n % 4, at: `${n}-0`, key: n % 3 === 0 ? `other` : keys[n % 4]! })),
    );
    const found = await pages(t, { key: keys[1]!, limit: 2 });
    expect(ids(found.flat())).toEqual([17, 13, 5, 1].map((n) => `1-${n}-0`));
  });

  test("by any of its errors, taken literally", async () => {
    await using t = await openTestQueue("mq-letters");
    const history = [
      [1, "m", 'Error: "quoted" first'],
      [2, "m", "Error: last"],
    ] as const;
    await plantLetters(t, [
      { partition: 0, at: "1-0", error: "Error: last", history },
      { partition: 0, at: "2-0", error: "Error: 100% %d [x]" },
    ]);
    const found = async (error: string) => ids((await t.queue.deadLetters.list("t", "g", { error })).letters);
    expect(await found('"quoted"')).toEqual(["0-1-0"]);
    expect(await found("last")).toEqual(["0-1-0"]);
    expect(await found("% %d [x]")).toEqual(["0-2-0"]);
    expect(await found("%a")).toEqual([]);
    expect(await found("Error")).toEqual(["0-2-0", "0-1-0"]);
  });

  test("by time", async () => {
    await using t = await openTestQueue("mq-letters");
    await plantLetters(
      t,
      range(1, 8).map((n) => ({ partition: n % 4, at: `${n}-1` })),
    );
    expect(ids((await t.queue.deadLetters.list("t", "g", { before: "4" })).letters)).toEqual([
      "3-3-1",
      "2-2-1",
      "1-1-1",
    ]);
  });

  test("out of range are refused, naming each field and its limit", async () => {
    await using t = await openTestQueue("mq-letters");
    const refused = async (query: DeadLetterQuery, group = "g") => {
      const error = await t.queue.deadLetters.list("t", group, query).catch((thrown) => thrown);
      expect(error).toMatchObject({ code: "INVALID" });
      return error.issues.map(({ path }: { path: string }) => path);
    };
    expect(await refused({ limit: 0 })).toEqual(["limit"]);
    expect(await refused({ limit: 201 })).toEqual(["limit"]);
    expect(await refused({ limit: 1.5, before: "yesterday" })).toEqual(["limit", "before"]);
    expect(await refused({ key: "", error: "x".repeat(1_001) })).toEqual(["key", "error"]);
    expect(await refused({}, "a:b")).toEqual(["group"]);
  });
});

test("letters of one group are not another's", async () => {
  await using t = await openTestQueue("mq-letters");
  for (const group of ["g", "h"]) {
    await t.run(
      t.queue.consume(t.topic, {
        ...{ group, mode: "ordered" },
        handle({ data }) {
          if (group === "h" || data.n === 1) throw new Bury(`by ${group}`);
        },
      }),
    );
  }
  await t.publish("k", 1, 3);
  const count = async (group: string) => (await t.queue.deadLetters.list("t", group)).letters.length;
  await eventually(async () => {
    const { groups } = await t.queue.describe(t.topic);
    expect(groups.map(({ lag }) => lag)).toEqual([0, 0]);
  });
  expect([await count("g"), await count("h")]).toEqual([1, 3]);
  expect((await t.queue.deadLetters.list("t", "nobody")).letters).toEqual([]);
});

test("what the bound evicts is counted, and what was redriven makes room", async () => {
  await using t = await openTestQueue("mq-letters");
  const { keys, redis, metrics } = t.store;
  const partition = keys.partitionOf("k");
  const bound = 100_000 / keys.partitions;
  const fields = { i: "x", t: "a", k: "", s: "", d: '{"n":0}', p: "", entry: "1-0" };
  await redis.commands.eval(
    "for i = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], i .. '-0', unpack(ARGV, 2)) end",
    ...([1, keys.deadLetters("t", partition, "g"), bound] as const),
    ...Object.entries(fields).flat(),
  );
  await t.queue.deadLetters.redrive("t", "g", { ids: [`${partition}-7-0`] });
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "concurrent" },
      handle({ data }) {
        if (data.n > 0) throw new Bury("no");
      },
    }),
  );
  await eventually(async () => expect((await t.queue.describe(t.topic)).groups[0]?.lag).toBe(0));
  const evicted = async () => (await metrics.deadLettersEvicted.get()).values[0]?.value ?? 0;
  const newest = async () => (await t.queue.deadLetters.list("t", "g", { limit: 3, key: "k" })).letters.length;
  await t.publish("k", 1, 1);
  await eventually(async () => expect(await newest()).toBe(1));
  expect(await evicted()).toBe(0);
  await t.publish("k", 2, 3);
  await eventually(async () => expect(await newest()).toBe(3));
  expect(await evicted()).toBe(2);
  expect(await redis.commands.xlen(keys.deadLetters("t", partition, "g"))).toBe(bound);
});
