/** Where the groups of a topic stand, in words and in gauges. */

import { expect, test } from "bun:test";
import { Bury } from "../../lib/mq/index.ts";
import { eventually } from "../support/eventually.ts";
import { openTestQueue, type TestQueue } from "../support/queue.ts";

async function gauge({ store }: TestQueue, name: string, group: string): Promise<number | undefined> {
  const metric = (await store.metrics.registry.getMetricsAsJSON()).find((each) => each.name === name);
  return metric?.values.find(({ labels }) => labels.group === group)?.value as number | undefined;
}

test("tells lag, the oldest message's age, dead letters, and who paused it since when", async () => {
  await using t = await openTestQueue("mq-describe");
  for (const group of ["done", "stuck"]) {
    await t.run(
      t.queue.consume(t.topic, {
        ...{ group, mode: "concurrent", backoff: [60_000] },
        handle({ data }) {
          if (data.n === 1) throw new Bury("hopeless");
          if (group === "stuck") throw new Error("not yet");
        },
      }),
    );
  }
  await t.publish("k", 1, 3);
  const before = Date.now();
  await t.queue.control.pause(t.topic, "stuck", "migration");
  await eventually(async () => {
    const { groups, length } = await t.queue.describe(t.topic);
    expect(length).toBe(3);
    const [done, stuck] = groups;
    expect(done).toMatchObject({ group: "done", lag: 0, oldestMs: 0, deadLetters: 1, paused: undefined });
    expect(stuck!.oldestMs).toBeGreaterThan(100);
    expect(stuck!.paused!.at).toBeGreaterThanOrEqual(before - 1_000);
    expect(stuck).toMatchObject({ group: "stuck", lag: 2, deadLetters: 1, paused: { reason: "migration" } });
  });
  expect(await gauge(t, "im_mq_lag_messages", "stuck")).toBe(2);
  expect(await gauge(t, "im_mq_oldest_pending_seconds", "stuck")).toBeGreaterThan(0.1);
  expect(await gauge(t, "im_mq_oldest_pending_seconds", "done")).toBe(0);
  await t.queue.control.resume(t.topic, "stuck");
  expect((await t.queue.describe(t.topic)).groups[1]!.paused).toBeUndefined();
});
