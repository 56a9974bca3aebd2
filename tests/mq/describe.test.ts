/** Where the groups of a topic stand. */

import { expect, test } from "bun:test";
import { Bury } from "../../lib/mq/index.ts";
import { eventually } from "../support/eventually.ts";
import { openTestQueue } from "../support/queue.ts";

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
  // What a paused group has not read it does not read.
  await eventually(async () => expect(await t.deadLetters("stuck")).toHaveLength(1));
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
  await t.queue.control.resume(t.topic, "stuck");
  expect((await t.queue.describe(t.topic)).groups[1]!.paused).toBeUndefined();
});
