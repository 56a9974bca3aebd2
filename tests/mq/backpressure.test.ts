/** Nothing unread is ever trimmed, so a full topic holds up its producers: 429, before and not after. */

import { expect, test } from "bun:test";
import { defineTopic } from "../../lib/mq/index.ts";
import { eventually } from "../support/eventually.ts";
import { Numbered, openTestQueue, range } from "../support/queue.ts";

const small = (backlogMax: number) => defineTopic("t", { schema: Numbered, lengthMax: backlogMax, backlogMax });
const numbered = (n: number) => ({ type: "numbered", key: "k", data: { n } });

test("a group that stands still fills its topic, and the publication that would not fit is refused as a whole", async () => {
  await using t = await openTestQueue("mq-backpressure", { partitions: 1, topic: small(10) });
  await t
    .run(t.queue.consume(t.topic, { group: "g", mode: "ordered", handle: () => undefined }))
    .then((service) => service.stop(AbortSignal.timeout(5_000)));
  await t.publish("k", 1, 10);
  const refused = t.queue.publish(t.topic, numbered(11));
  expect(refused).rejects.toMatchObject({ code: "RATE_LIMITED", retryAfterMs: 1_000, retryable: true });
  await refused.catch(() => undefined);
  expect(await t.store.redis.commands.xlen(t.store.keys.topic("t", 0))).toBe(10);
  const { values } = await t.store.metrics.publishRefused.get();
  expect(values).toMatchObject([{ value: 1, labels: { topic: "t" } }]);
});

test("as soon as the group goes on there is room, and nothing that was accepted is missing", async () => {
  await using t = await openTestQueue("mq-backpressure", { partitions: 1, topic: small(10) });
  const seen: number[] = [];
  let isOpen = false;
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered", backoff: [5], maxAttempts: Number.POSITIVE_INFINITY },
      handle({ data }) {
        if (!isOpen) throw new Error("closed");
        seen.push(data.n);
      },
    }),
  );
  await t.publish("k", 1, 10);
  expect(t.queue.publish(t.topic, numbered(0))).rejects.toMatchObject({ code: "RATE_LIMITED" });
  isOpen = true;
  for (const n of range(11, 20)) await eventually(() => t.queue.publish(t.topic, numbered(n)));
  await eventually(() => expect(seen).toEqual(range(1, 20)));
});

test("what every group has finished makes room at once, without waiting for the trimmer, to the entry", async () => {
  await using t = await openTestQueue("mq-backpressure", { partitions: 1, topic: small(10) });
  const seen: number[] = [];
  await t.run(t.queue.consume(t.topic, { group: "g", mode: "concurrent", handle: ({ data }) => seen.push(data.n) }));
  for (const n of range(1, 10)) await t.queue.publish(t.topic, numbered(n));
  await eventually(async () => expect((await t.queue.describe(t.topic)).groups[0]!.lag).toBe(0));
  // 10 % of ten: one place.
  await t.queue.publish(t.topic, numbered(11));
  expect(await t.store.redis.commands.xlen(t.store.keys.topic("t", 0))).toBe(10);
});

test("a topic that nobody reads is never full: its oldest entries go", async () => {
  await using t = await openTestQueue("mq-backpressure", { partitions: 1, topic: small(10) });
  await t.publish("k", 1, 50);
  // Entries of the present millisecond are left to the next trim.
  await eventually(async () => {
    await t.queue.trim(t.topic);
    const kept = await t.store.redis.commands.xrange(t.store.keys.topic("t", 0), "-", "+");
    expect(kept.map(([, [, data]]) => data)).toEqual(range(41, 50).map((n) => JSON.stringify({ n })));
  });
});

test("a duplicate is answered however full the topic is", async () => {
  await using t = await openTestQueue("mq-backpressure", { partitions: 1, topic: small(1) });
  await t.run(t.queue.consume(t.topic, { group: "g", mode: "ordered", handle: () => new Promise(() => undefined) }));
  const first = await t.queue.publish(t.topic, { ...numbered(1), dedupId: "d" });
  expect(await t.queue.publish(t.topic, { ...numbered(1), dedupId: "d" })).toEqual({ ...first, duplicate: true });
  expect(t.queue.publish(t.topic, numbered(2))).rejects.toMatchObject({ code: "RATE_LIMITED" });
});
