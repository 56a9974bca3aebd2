import { expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import type { Message } from "../../lib/mq/index.ts";
import { Delivery } from "../../lib/mq/message.ts";
import { isExpired, isSelected } from "../../lib/mq/selection.ts";
import { eventually } from "../support/eventually.ts";
import { type Numbered, openTestQueue, type TestQueue } from "../support/queue.ts";

const HEADER = "id t k  ";

test("a message is for a group unless it is another's, of another tag, or expired", async () => {
  await using t = await openTestQueue("mq-selection");
  const of = (attributes: string) => new Delivery(t.topic, 0, ["1-0", [`${attributes}${HEADER}`, "{}"]]);
  const all = { group: "g", tags: undefined };
  const vip = { group: "g", tags: new Set(["vip", "gold"]) };
  expect([isSelected(of(""), all, 5), isSelected(of(""), vip, 5)]).toEqual([true, false]);
  expect([isSelected(of("@t=gold "), all, 5), isSelected(of("@t=gold "), vip, 5)]).toEqual([true, true]);
  expect(isSelected(of("@t=poor "), vip, 5)).toBe(false);
  expect([isSelected(of("@g=g;r=1 "), all, 5), isSelected(of("@g=h;r=1 "), all, 5)]).toEqual([true, false]);
  expect([4, 5, 6].map((now) => isSelected(of("@x=5 "), all, now))).toEqual([true, true, false]);
  expect([4, 5, 6].map((now) => isExpired(of("@x=5 "), now))).toEqual([false, false, true]);
  expect(isExpired(of(""), 5)).toBe(false);
});

type Reader = "ordered" | "ordered batch" | "concurrent" | "concurrent batch";
const READERS: readonly Reader[] = ["ordered", "ordered batch", "concurrent", "concurrent batch"];

/** A member of group "g" that remembers what it was handed. */
function consume(t: TestQueue, reader: Reader, tags: readonly string[] | undefined, seen: number[]) {
  const mode = reader.startsWith("ordered") ? "ordered" : "concurrent";
  const handler = reader.endsWith("batch")
    ? { handleBatch: (messages: readonly Message<Numbered>[]) => seen.push(...messages.map(({ data }) => data.n)) }
    : { handle: ({ data }: Message<Numbered>) => seen.push(data.n) };
  return t.queue.consume(t.topic, { group: "g", mode, ...(tags ? { tags } : {}), ...handler });
}

for (const reader of READERS) {
  test(`${reader}: tag filter, expired and addressed messages are finished unseen`, async () => {
    await using t = await openTestQueue("mq-selection", { partitions: 1 });
    const { redis, keys, metrics } = t.store;
    const seen: number[] = [];
    const publish = (n: number, more: object = {}) =>
      t.queue.publish(t.topic, { type: "a", key: "k", data: { n }, ...more });
    await publish(1, { tag: "vip" });
    await publish(2, { tag: "poor" });
    await publish(3);
    await publish(4, { tag: "gold", expireAt: Date.now() - 1 });
    await publish(5, { tag: "gold", expireAt: Date.now() + 60_000 });
    const stream = keys.topic("t", 0);
    await redis.commands.xadd(stream, "*", "@t=vip;g=other;r=1 id6 a k  ", '{"n":6}');
    await redis.commands.xadd(stream, "*", "@t=vip;g=g;r=1;o=1 id7 a k  ", '{"n":7}');
    await t.run(consume(t, reader, ["vip", "gold"], seen));
    await eventually(() => expect(seen).toEqual([1, 5, 7]));
    await eventually(async () =>
      expect((await t.queue.describe(t.topic)).groups[0]).toMatchObject({ lag: 0, open: 0 }),
    );
    expect((await metrics.expired.get()).values).toMatchObject([{ value: 1 }]);
    expect((await metrics.acked.get()).values).toMatchObject([{ value: 3 }]);
    expect(await t.deadLetters("g")).toEqual([]);
  });
}

test("a message that expires while it waits for its retry, or aside, is not handed out any more", async () => {
  let shiftMs = 0;
  const clock = { ...systemClock, now: () => Date.now() + shiftMs };
  await using t = await openTestQueue("mq-selection", { clock });
  const seen: number[] = [];
  const expireAt = Date.now() + 60_000;
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered", backoff: [10], onPoison: "park", maxAttempts: 2 },
      handle({ data }) {
        seen.push(data.n);
        if (data.n < 3) throw new Error("not now");
      },
    }),
  );
  await t.queue.publish(t.topic, { type: "a", key: "k", data: { n: 1 }, expireAt });
  await t.publish("k", 3, 3);
  await eventually(async () => expect(await t.queue.aside.list(t.topic, "g")).toHaveLength(1));
  shiftMs = 60_005;
  await t.queue.aside.unpark(t.topic, "g", "k");
  await eventually(() => expect(seen).toEqual([1, 1, 3]));
  expect((await t.store.metrics.expired.get()).values).toMatchObject([{ value: 1 }]);
});
