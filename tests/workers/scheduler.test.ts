/** The scheduler as a real process: killed, stopped, and with a clock that is an hour ahead. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { imRelay } from "../../lib/mq/index.ts";
import { appended, redisNow } from "../support/delayed.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/folder.ts";
import { openTestQueue, range, type TestQueue } from "../support/queue.ts";
import { startUnit } from "../support/unit.ts";

const HOUR_AHEAD = join(import.meta.dir, "../../scripts/chaos/hour-ahead.ts");

/** Messages 1..count, due one after the other within `spreadMs` from `fromMs` on; resolves to when each is due. */
async function publishDue(t: TestQueue, count: number, fromMs: number, spreadMs: number): Promise<Map<number, number>> {
  const now = await redisNow(t.store);
  const due = new Map(range(1, count).map((n) => [n, now + fromMs + Math.floor((spreadMs * n) / count)]));
  const inputs = [...due].map(([n, deliverAt]) => ({ type: "a", key: `k${n}`, data: { n }, deliverAt }));
  await t.queue.publishMany(t.topic, inputs);
  return due;
}

async function expectAllOnce(t: TestQueue, due: ReadonlyMap<number, number>): Promise<void> {
  await eventually(async () => expect((await appended(t)).length).toBeGreaterThanOrEqual(due.size));
  const entries = await appended(t);
  expect(entries.map(({ n }) => n).sort((a, b) => a - b)).toEqual([...due.keys()]);
  expect(entries.filter(({ n, at }) => at < due.get(n)!)).toEqual([]);
}

test("it sends what others delayed, and stops softly", async () => {
  await using t = await openTestQueue("scheduler");
  using folder = temporaryFolder("scheduler");
  const early = await publishDue(t, 20, 0, 10);
  await using unit = await startUnit(t.store, folder.path, "scheduler");
  await expectAllOnce(t, early);
  expect(await unit.stop()).toBe(0);
});

test("killed with -9 over and over, nothing is lost, early or doubled", async () => {
  await using t = await openTestQueue("scheduler");
  using folder = temporaryFolder("scheduler");
  const due = await publishDue(t, 300, 500, 4_000);
  for (let kills = 0; kills < 3; kills++) {
    await using unit = await startUnit(t.store, folder.path, "scheduler");
    await Bun.sleep(300 + 200 * kills);
    await unit.kill();
  }
  await using _last = await startUnit(t.store, folder.path, "scheduler");
  await expectAllOnce(t, due);
});

test("with a clock that is an hour ahead, and nobody beside it, it is never early and not an hour late", async () => {
  await using t = await openTestQueue("scheduler");
  using folder = temporaryFolder("scheduler");
  await using _unit = await startUnit({ ...t.store, preload: HOUR_AHEAD }, folder.path, "scheduler");
  const due = await publishDue(t, 50, 300, 1_000);
  await expectAllOnce(t, due);
});

test("it trims the topics that services declared and the relay, and goes on with redrives", async () => {
  await using t = await openTestQueue("scheduler", { partitions: 1 });
  using folder = temporaryFolder("scheduler");
  const { catalog, deadLetters } = t.queue;
  await catalog.declareTopic("t", { maxLength: 10 });
  const seen: number[] = [];
  let isFailing = true;
  const group = { group: "g", mode: "concurrent", maxAttempts: 1 } as const;
  await t.run(
    t.queue.consume(t.topic, {
      ...group,
      handle({ data }) {
        if (isFailing && data.n <= 3) throw new Error("not yet");
        seen.push(data.n);
      },
    }),
  );
  await t.publish("k", 1, 100);
  await eventually(() => expect(seen.length).toBe(97));
  await eventually(async () => expect((await t.queue.describe(t.topic)).groups[0]!.lag).toBe(0));
  isFailing = false;
  const { redrive } = await deadLetters.redrive("t", "g", { filter: {} }, { perSecond: 100 });
  await using _unit = await startUnit(t.store, folder.path, "scheduler");
  await eventually(async () => expect((await deadLetters.redriveStatus(redrive!))?.state).toBe("done"));
  await eventually(() => expect(seen.length).toBe(100));
  await eventually(async () => expect((await t.queue.describe(t.topic)).length).toBeLessThanOrEqual(10));
  expect((await t.queue.describe(imRelay)).groups.map(({ group: name }) => name)).toEqual(["relay"]);
});
