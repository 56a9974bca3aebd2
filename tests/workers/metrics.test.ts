/** What /metrics tells of processes beside the gateway that is asked. */

import { expect, test } from "bun:test";
import { silentLog } from "../../lib/observability/index.ts";
import { createMetricSnapshots } from "../../lib/redis/index.ts";
import { choresOf } from "../../workers/scheduler/tasks.ts";
import { openTestChat } from "../support/chat.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/folder.ts";
import { openTestQueue } from "../support/queue.ts";
import { openTestStore } from "../support/redis.ts";
import { startUnit } from "../support/unit.ts";

test("processes without HTTP are in it, and where groups stand, whoever measured that", async () => {
  await using store = await openTestStore("ops");
  await using chat = await openTestChat(store, { gateways: 2 });
  using folder = temporaryFolder("metrics");
  await using scheduler = await startUnit({ ...store, instance: "other" }, folder.path, "scheduler");
  await eventually(async () => {
    for (const { url } of chat.gateways) {
      const text = await (await fetch(`${url}/metrics`)).text();
      expect(text).toContain('skein_process_resident_memory_bytes{unit="other"}');
      expect(text).toContain('im_gateway_connections{unit="test.gateway0"}');
      expect(text).toContain('im_mq_lag_messages{topic="im.events",group="delivery"} 0');
    }
  });
  expect(await scheduler.stop()).toBe(0);
  const left = await (await fetch(`${chat.url}/metrics`)).text();
  expect(left).not.toContain('unit="other"');
  expect(left).toContain("im_mq_lag_messages");
});

test("a group that was dropped is not told of any more, and each group once", async () => {
  await using t = await openTestQueue("ops-groups");
  const { store, queue, topic } = t;
  await queue.catalog.declareTopic(topic.name, {});
  for (const group of ["stays", "goes"])
    await queue.catalog.declareGroup(topic.name, group, { mode: "concurrent", start: "first" });
  await t.publish("k", 1, 3);
  const scheduler = (unit: string) => {
    const snapshots = createMetricSnapshots({
      ...store,
      unit,
      clock: { now: Date.now, sleep: Bun.sleep },
      log: silentLog,
    });
    return { snapshots, gauges: choresOf(queue, snapshots).find(({ name }) => name === "gauges")! };
  };
  const [first, second] = [scheduler("one"), scheduler("two")];
  const lags = async () =>
    (await first.snapshots.tell()).split("\n").filter((line) => line.startsWith('im_mq_lag_messages{topic="t"'));
  await first.gauges.run();
  expect((await lags()).sort()).toEqual(
    ["goes", "stays"].map((group) => `im_mq_lag_messages{topic="t",group="${group}"} 3`),
  );
  await queue.control.dropGroup(topic, "goes");
  await t.publish("k", 4, 4);
  await second.gauges.run();
  expect(await lags()).toEqual(['im_mq_lag_messages{topic="t",group="stays"} 4']);
});
