/** The side queue when Redis dies under it, and when it is full. */

import { expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { declare } from "../../lib/mq/consumer.ts";
import { registerGroup } from "../../lib/mq/group.ts";
import type { Message } from "../../lib/mq/index.ts";
import { acquireLease, type Grant, PartitionLease } from "../../lib/mq/lease.ts";
import { SideQueue } from "../../lib/mq/side-queue.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { eventually } from "../support/eventually.ts";
import { loseAnswers } from "../support/lost-answers.ts";
import { type Numbered, openTestQueue, range } from "../support/queue.ts";
import { startTestRedis } from "../support/redis-server.ts";

test("Redis is killed and restarted while a key goes aside, and while it comes back: nothing is lost, order is kept", async () => {
  const server = await startTestRedis({ appendfsync: "always" });
  await using _server = { [Symbol.asyncDispose]: () => server.stop() };
  await using t = await openTestQueue("mq-side-heal", { url: server.url });
  const seen: number[] = [];
  const faults: string[] = [];
  let isBroken = true;
  let isSlow = false;
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered", leaseMs: 1_000, backoff: [5], onPoison: "park", maxAttempts: 3 },
      async handle({ data }: Message<Numbered>) {
        if (isBroken) throw new Error("broken");
        if (isSlow) await Bun.sleep(1);
        const last = seen.at(-1) ?? 0;
        if (data.n > last + 1) faults.push(`${data.n} after ${last}`);
        seen.push(data.n);
      },
    }),
  );
  const restart = async () => {
    server.kill("SIGKILL");
    await Bun.sleep(100);
    await server.restart();
  };
  await t.publish("k", 1, 900);
  await restart();
  await eventually(async () => {
    expect(await t.queue.aside.list(t.topic, "g")).toMatchObject([{ state: "parked", messages: 900 }]);
  });
  isBroken = false;
  isSlow = true;
  await eventually(async () => expect(await t.queue.aside.unpark(t.topic, "g", "k")).toBe("ok"));
  await eventually(() => expect(seen.length).toBeGreaterThan(100));
  await restart();
  await eventually(() => t.publish("k", 901, 950));
  await eventually(() => expect(seen.at(-1)).toBe(950));
  expect(faults).toEqual([]);
  expect(new Set(seen)).toEqual(new Set(range(1, 950)));
  await eventually(async () => expect((await t.queue.describe(t.topic)).groups[0]).toMatchObject({ lag: 0, open: 0 }));
});

test("when too much stands aside the partition is not read, until there is less", async () => {
  await using t = await openTestQueue("mq-side-heal", { partitions: 1 });
  const { redis, keys, metrics } = t.store;
  const context = { redis, keys, metrics, clock: systemClock, log: silentLog, member: "m" };
  const declaration = declare<unknown>({ group: "g", mode: "ordered", handle: () => undefined });
  await registerGroup(context, "t", declaration, 0, "first");
  const site = { context, topic: "t", declaration, partition: 0, session: "1" };
  const lease = new PartitionLease(site, (await acquireLease(site)) as Grant, () => undefined);
  const sideOf = (start: { messages: number; bytes: number }) =>
    new SideQueue<unknown>({ site, topic: t.topic, lease, start: { keys: ["k"], ...start } });
  expect(sideOf({ messages: 99_999, bytes: 0 }).isFull).toBe(false);
  expect(sideOf({ messages: 1, bytes: 64 * 1024 * 1024 }).isFull).toBe(true);
  const side = sideOf({ messages: 100_000, bytes: 0 });
  expect(side.isFull).toBe(true);
  await side.recount();
  expect(side.isFull).toBe(false);
});

test.each([
  { what: "hand-out", script: "mqSideTake", losses: 1 },
  { what: "read behind a consume transaction", script: "mqSideRead", losses: 12 },
])("a key goes on whose $what from aside was not heard", async ({ script, losses }) => {
  await using t = await openTestQueue("mq-side-heal", { partitions: 1 });
  const lose = loseAnswers(t.store.redis.commands, script);
  const seen: number[] = [];
  let isBroken = true;
  await t.run(
    t.queue.consume(t.topic, {
      ...{ group: "g", mode: "ordered", leaseMs: 1_000, backoff: [5], onPoison: "park", maxAttempts: 2 },
      async handle({ data }: Message<Numbered>, context) {
        if (isBroken) throw new Error("broken");
        seen.push(data.n);
        await context.commit();
      },
    }),
  );
  await t.publish("k", 1, 30);
  await eventually(async () => {
    expect(await t.queue.aside.list(t.topic, "g")).toMatchObject([{ state: "parked", messages: 30 }]);
  });
  isBroken = false;
  lose(losses);
  await t.queue.aside.unpark(t.topic, "g", "k");
  // Who loses the lease while it stands still is handed some again.
  await eventually(() => expect([...new Set(seen)]).toEqual(range(1, 30)));
  await eventually(async () => {
    expect((await t.queue.describe(t.topic)).groups[0]).toMatchObject({ lag: 0, sideMessages: 0 });
  });
});
