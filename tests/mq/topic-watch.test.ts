/** Watching a topic for others: one set of connections, however often watchers come and go. */

import { expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { TopicWatch } from "../../lib/mq/topic-watch.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { eventually } from "../support/eventually.ts";
import { openTestQueue } from "../support/queue.ts";

test("with a connection per partition, as on a Cluster, those of a watching that ended do not go on beside the next", async () => {
  await using t = await openTestQueue("mq-watch");
  const { redis, keys, metrics } = t.store;
  const open = new Set<string>();
  let opened = 0;
  const blocking = (name: string) => {
    const connection = redis.blocking(name);
    const id = `${name} ${opened++}`;
    open.add(id);
    connection.on("end", () => open.delete(id));
    return connection;
  };
  const asCluster = { ...redis, blocking, topology: "cluster" as const };
  const watch = new TopicWatch(
    { redis: asCluster, keys, metrics, clock: systemClock, log: silentLog, member: "m" },
    t.topic.name,
  );
  let woken = 0;
  const wake = () => {
    woken += 1;
  };
  const ignore = () => undefined;
  await watch.add(ignore);
  watch.remove(ignore);
  // The watcher of this partition finds that nobody watches; the others are blocked.
  await t.publish("k", 1, 1);
  await eventually(() => expect(open.size).toBe(3));
  await watch.add(wake);
  await eventually(() => expect([opened, open.size]).toEqual([8, 4]));
  await t.publish("k", 2, 2);
  await eventually(() => expect(woken).toBe(1));
  await watch.close();
  await eventually(() => expect(open.size).toBe(0));
});
