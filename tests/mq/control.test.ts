import { describe, expect, spyOn, test } from "bun:test";
import type { ConsumeOptions, Message, StartPoint } from "../../lib/mq/index.ts";
import { parseAside, sideKeys } from "../../lib/mq/side.ts";
import { eventually } from "../support/eventually.ts";
import { digestOf, type Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";

const MODES = ["ordered", "concurrent"] as const;
const soft = () => AbortSignal.timeout(20_000);
/** Without those that a fenced holder handed out before it knew. */
const distinct = (numbers: readonly number[]) => [...new Set(numbers)].toSorted((a, b) => a - b);

async function consume(t: TestQueue, options: Partial<ConsumeOptions<Numbered>>, member = "m"): Promise<number[]> {
  const seen: number[] = [];
  const handle = ({ data }: Message<Numbered>) => seen.push(data.n);
  const all = { group: "g", mode: "ordered", leaseMs: 1_000, handle, ...options } as ConsumeOptions<Numbered>;
  await t.run(t.member(member).consume(t.topic, all));
  return seen;
}

async function lagOf(t: TestQueue): Promise<number> {
  return (await t.queue.describe(t.topic)).groups[0]!.lag;
}

/** The group's only member has looked at its state since: of two looks that begin from now on the first is done. */
async function hasLooked({ store: { redis, keys } }: TestQueue): Promise<void> {
  const hkeys = spyOn(redis.commands, "hkeys");
  await eventually(() => {
    const looks = hkeys.mock.calls.filter(([key]) => key === keys.groupMembers("t", "g"));
    expect(looks.length).toBeGreaterThanOrEqual(2);
  });
  hkeys.mockRestore();
}

/** The entry of message n of key k. */
async function entryOf(t: TestQueue, n: number): Promise<string> {
  const { redis, keys } = t.store;
  const entries = await redis.commands.xrange(keys.topic("t", keys.partitionOf("k")), "-", "+");
  return entries.find(([, fields]) => fields[1] === `{"n":${n}}`)![0];
}

describe.each(MODES)("%s", (mode) => {
  test("a paused group finishes what is in hand and takes nothing more; resumed, it goes on at no cost", async () => {
    await using t = await openTestQueue("mq-control");
    const gate = Promise.withResolvers<void>();
    const handed: string[] = [];
    const options: ConsumeOptions<Numbered> = {
      ...{ group: "g", mode, inFlightMax: 2 },
      async handle({ data, attempt }) {
        handed.push(`${data.n} attempt ${attempt}`);
        if (data.n === 1) await gate.promise;
      },
    };
    await t.run(t.queue.consume(t.topic, options));
    await t.publish("k", 1, 1);
    await eventually(() => expect(handed).toEqual(["1 attempt 1"]));
    await t.queue.control.pause(t.topic, "g", "migration");
    // Noticed within a second, if the process has that second; what comes then waits.
    await hasLooked(t);
    await t.publish("k", 2, 5);
    await t.publish("l", 6, 9);
    gate.resolve();
    if (mode === "ordered") {
      await eventually(async () =>
        expect((await t.queue.describe(t.topic)).groups[0]!.owners.every((owner) => owner === undefined)).toBe(true),
      );
    }
    await eventually(async () => expect(await lagOf(t)).toBe(8));
    await Bun.sleep(300);
    expect(handed).toEqual(["1 attempt 1"]);
    await t.queue.control.resume(t.topic, "g");
    await eventually(() => expect(handed.toSorted()).toEqual(range(1, 9).map((n) => `${n} attempt 1`)));
    await eventually(async () => expect(await lagOf(t)).toBe(0));
  });

  test.each([
    ["first", 1],
    ["id", 4],
    ["time", 4],
    ["latest", 9],
    ["to come", 9],
  ] as const)(
    "a seek to %s: the group goes on with message %d, and nothing behind it is missed",
    async (kind, from) => {
      await using t = await openTestQueue("mq-control", { partitions: 1 });
      const seen = await consume(t, { mode });
      await t.publish("k", 1, 3);
      await Bun.sleep(2);
      await t.publish("k", 4, 8);
      await eventually(async () => expect([distinct(seen).length, await lagOf(t)]).toEqual([8, 0]));
      seen.length = 0;
      const entry = await entryOf(t, 4);
      const time = Number(entry.split("-")[0]);
      const points: Record<typeof kind, StartPoint> = {
        ...{ first: "first", latest: "latest", id: { id: entry }, time: { time } },
        "to come": { time: time + 3_600_000 },
      };
      await t.queue.control.seek(t.topic, "g", points[kind]);
      await t.publish("k", 9, 12);
      await eventually(async () => expect([distinct(seen), await lagOf(t)]).toEqual([range(from, 12), 0]));
      expect((await t.store.metrics.lostByTrim.get()).values.every(({ value }) => value === 0)).toBe(true);
    },
  );

  test("a new group begins at a time or an entry, and knows how far it is", async () => {
    await using t = await openTestQueue("mq-control", { partitions: 1 });
    await t.publish("k", 1, 1_200);
    const id = await entryOf(t, 601);
    const seen = await consume(t, { mode, start: { id } });
    await eventually(async () => expect([distinct(seen), await lagOf(t)]).toEqual([range(601, 1_200), 0]));
    expect(Number((await t.lease("g", "k")).read)).toBeGreaterThanOrEqual(mode === "ordered" ? 1_200 : 600);
    expect((await t.store.metrics.lostByTrim.get()).values.every(({ value }) => value === 0)).toBe(true);
  });

  test("what is in hand during a seek is refused, and comes again", async () => {
    await using t = await openTestQueue("mq-control", { partitions: 1 });
    const gate = Promise.withResolvers<void>();
    const events: string[] = [];
    let inHand: AbortSignal | undefined;
    const options: ConsumeOptions<Numbered> = {
      ...{ group: "g", mode, inFlightMax: 1 },
      async handle({ data }, { signal, token }) {
        const isFirst = !events.some((event) => event.startsWith("1 "));
        if (data.n === 1 && isFirst) {
          inHand = signal;
          events.push(`1 in hand`);
          await gate.promise;
          events.push(`1 refused ${signal.aborted} ${token}`);
        } else events.push(`${data.n} ${token}`);
      },
    };
    await t.run(t.queue.consume(t.topic, options));
    await t.publish("k", 1, 3);
    await eventually(() => expect(events).toEqual(["1 in hand"]));
    await t.queue.control.seek(t.topic, "g", "first");
    await eventually(() => expect(inHand!.aborted).toBe(true));
    gate.resolve();
    await eventually(() => expect(events.map((event) => event.split(" ")[0])).toEqual(["1", "1", "1", "2", "3"]));
    await eventually(async () => expect(await lagOf(t)).toBe(0));
    const [, refused, ...again] = events;
    expect(refused).toStartWith("1 refused true");
    const tokens = again.map((event) => Number(event.split(" ")[1]));
    expect(tokens.every((token) => token > Number(refused!.split(" ")[3]))).toBe(true);
  });

  test("seeks under load: every message of the last range is seen after it", async () => {
    await using t = await openTestQueue("mq-control");
    const seenBy = [await consume(t, { mode }, "a"), await consume(t, { mode }, "b")];
    await t.publish("k", 1, 100);
    for (let i = 0; i < 3; i++) {
      await t.publish(`k${i}`, 1, 100);
      await t.queue.control.seek(t.topic, "g", i === 1 ? "latest" : "first");
    }
    for (const seen of seenBy) seen.length = 0;
    await t.queue.control.seek(t.topic, "g", "first");
    await t.publish("z", 101, 120);
    await eventually(async () => expect(await lagOf(t)).toBe(0));
    const seen = seenBy.flat();
    for (const n of range(1, 100)) expect(seen.filter((other) => other === n).length).toBeGreaterThanOrEqual(4);
    for (const n of range(101, 120)) expect(seen).toContain(n);
  });

  test("a dropped group leaves no key; dropping it again is no fault", async () => {
    await using t = await openTestQueue("mq-control");
    await t.publish("k", 1, 5);
    const service = await t.run(
      t.queue.consume(t.topic, {
        ...{ group: "g", mode, backoff: [60_000], maxAttempts: 2 },
        handle({ data }) {
          if (data.n === 2) throw new Error("later");
        },
      }),
    );
    await eventually(async () => expect(await lagOf(t)).toBeLessThanOrEqual(4));
    const dropping = t.queue.control.dropGroup(t.topic, "g").catch((error: unknown) => error);
    expect(await dropping).toMatchObject({ code: "CONFLICT" });
    await service.stop(soft());
    await t.queue.control.pause(t.topic, "g");
    await t.queue.control.seek(t.topic, "g", "first");
    for (let times = 0; times < 2; times++) await t.queue.control.dropGroup(t.topic, "g");
    // What is left is the topic's.
    const streams = range(0, 3).map((partition) => t.store.keys.topic("t", partition));
    expect(Object.keys(await digestOf(t.store)).filter((key) => !streams.includes(key))).toEqual([]);
    expect((await t.queue.describe(t.topic)).groups).toEqual([]);
  });
});

test("orders to a group that is not there, and to no place, are refused", async () => {
  await using t = await openTestQueue("mq-control");
  const { control } = t.queue;
  for (const ordered of [
    control.pause(t.topic, "g"),
    control.resume(t.topic, "g"),
    control.seek(t.topic, "g", "first"),
  ]) {
    expect(await ordered.catch((error: unknown) => error)).toMatchObject({ code: "NOT_FOUND" });
  }
  await consume(t, {});
  const nowhere = control.seek(t.topic, "g", { id: "5-x" });
  expect(await nowhere.catch((error: unknown) => error)).toMatchObject({ code: "INVALID" });
});

test("a seek clears the side queue but of what is trimmed from the stream, and tries that anew, parked keys too", async () => {
  await using t = await openTestQueue("mq-control", { partitions: 1 });
  const { redis, keys } = t.store;
  const of = sideKeys(keys, "t", 0, "g");
  const total = 600;
  const service = await t.run(
    t.queue.consume(t.topic, { group: "g", mode: "ordered", leaseMs: 1_000, handle: () => undefined }),
  );
  await t.publish("k", 1, total);
  await eventually(async () => expect(await lagOf(t)).toBe(0));
  await service.stop(soft());
  const entries = await redis.commands.xrange(keys.topic("t", 0), "-", "+");
  const setAside = redis.commands.pipeline();
  for (const [i, [entry, [header, data]]] of entries.entries()) {
    const key = i % 2 === 0 ? "even" : "odd";
    const [ms, count] = entry.split("-") as [string, string];
    const renamed = header!.replace(" k ", ` ${key} `);
    setAside.hset(of.side, entry, `${renamed.length} ${renamed}${data}`);
    setAside.zadd(of.sideOrder, 0, `${key} ${ms.padStart(15, "0")}${count.padStart(10, "0")}`);
  }
  setAside.hset(of.aside, "even", "p 1 7 0 1 0 0 []", "odd", "o 1 2 0 1 99 9999999999999 []");
  setAside.zadd(of.asideDue, 9_999_999_999_999, "odd");
  await setAside.exec();
  await redis.commands.xtrim(keys.topic("t", 0), "MINID", entries[total - 10]![0]);
  // Three of them are trimmed and lie behind the place.
  await t.queue.control.seek(t.topic, "g", { id: entries[total - 13]![0] });
  expect(await redis.commands.hlen(of.side)).toBe(3);
  expect(await redis.commands.zrange(of.sideOrder, "0", "-1")).toHaveLength(3);
  const records = Object.values(await redis.commands.hgetall(of.aside)).map((text) => parseAside(text));
  expect(records).toMatchObject([{ state: "ready", failed: 0, token: "0" }, { state: "ready" }]);
  expect((await redis.commands.zrange(of.asideDue, "0", "-1")).toSorted()).toEqual(["even", "odd"]);
  expect(await t.lease("g", "k")).toMatchObject({ owner: "", until: "0" });
  await t.queue.control.seek(t.topic, "g", "latest");
  expect(await redis.commands.exists(of.aside, of.asideDue, of.side, of.sideOrder)).toBe(0);
});
