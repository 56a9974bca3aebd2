/** A gateway's delivery stream lives by its heartbeat, whatever else the gateway is busy with. */

import { expect, test } from "bun:test";
import { createMetrics, silentLog } from "../../lib/observability/index.ts";
import { createDeliveries } from "../../workers/gateway/deliveries.ts";
import type { Sessions } from "../../workers/gateway/sessions.ts";
import { eventually } from "../support/eventually.ts";
import { createFakeClock } from "../support/fake-clock.ts";
import { openTestStore } from "../support/redis.ts";

const HEARTBEAT_MS = 3_000;

test("routes that take long to write keep no heartbeat up, and are not written twice at once", async () => {
  await using store = await openTestStore("deliveries-beat");
  const { redis, keys } = store;
  const clock = createFakeClock();
  const written = Promise.withResolvers<void>();
  let refreshes = 0;
  const refreshRoutes = () => {
    refreshes += 1;
    return written.promise;
  };
  const sessions = { refreshRoutes, doubtRoutes: () => undefined, subscriptions: { clear: () => undefined } };
  const deliveries = createDeliveries({
    ...{ node: "g1", redis, keys, clock, log: silentLog, metrics: createMetrics() },
    sessions: sessions as unknown as Sessions,
  });
  await deliveries.start();
  for (let beat = 0; beat < 3; beat++) {
    await redis.commands.pexpire(keys.gateway("g1"), HEARTBEAT_MS);
    await eventually(async () => {
      await clock.advance(HEARTBEAT_MS);
      expect(await redis.commands.pttl(keys.gateway("g1"))).toBeGreaterThan(2 * HEARTBEAT_MS);
    });
  }
  expect(refreshes).toBe(1);
  written.resolve();
  await eventually(async () => {
    await clock.advance(HEARTBEAT_MS);
    expect(refreshes).toBe(2);
  });
  await deliveries.stop(AbortSignal.timeout(HEARTBEAT_MS));
  expect(await redis.commands.exists(keys.gateway("g1"))).toBe(0);
});
