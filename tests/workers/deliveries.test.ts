/** A gateway's delivery stream lives by its heartbeat, whatever else the gateway is busy with; what may be lost with it is doubted. */

import { expect, test } from "bun:test";
import { createMetrics, silentLog } from "../../lib/observability/index.ts";
import type { RedisClient } from "../../lib/redis/index.ts";
import { createDeliveries } from "../../workers/gateway/deliveries.ts";
import type { Logic } from "../../workers/gateway/methods.ts";
import { Sessions } from "../../workers/gateway/sessions.ts";
import { eventually } from "../support/eventually.ts";
import { createFakeClock } from "../support/fake-clock.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";

const HEARTBEAT_MS = 3_000;

/** The deliveries of gateway `g1`, started, with sessions that note what they are told. */
async function openDeliveries({ redis, keys }: TestStore, refreshRoutes = () => Promise.resolve()) {
  const clock = createFakeClock();
  const moves: string[] = [];
  const doubts: number[] = [];
  const delivered: string[] = [];
  const sessions = {
    ...{ refreshRoutes, isDurable: false, subscriptions: { clear: () => undefined } },
    doubtRoutes: (sinceMs: number) => doubts.push(sinceMs),
    moveTo: (node: string) => moves.push(node),
    deliver: (_: number, frame: string) => delivered.push(frame),
  };
  let reader: RedisClient | undefined;
  const blocking = (name: string) => {
    reader = redis.blocking(name);
    return reader;
  };
  const deliveries = createDeliveries({
    ...{ node: "g1", redis: { ...redis, blocking }, keys, clock, log: silentLog, metrics: createMetrics() },
    sessions: sessions as unknown as Sessions,
  });
  await deliveries.start();
  return {
    ...{ clock, moves, doubts, delivered },
    reader: reader!,
    beat: () => clock.advance(HEARTBEAT_MS),
    append: (gateway: string, ...pairs: string[]) => redis.commands.xadd(keys.gateway(gateway), "*", ...pairs),
    [Symbol.asyncDispose]: () => deliveries.stop(AbortSignal.timeout(HEARTBEAT_MS)),
  };
}

test("routes that take long to write keep no heartbeat up, and are not written twice at once", async () => {
  await using store = await openTestStore("deliveries-beat");
  const { redis, keys } = store;
  const written = Promise.withResolvers<void>();
  let refreshes = 0;
  const refreshRoutes = () => {
    refreshes += 1;
    return written.promise;
  };
  {
    await using deliveries = await openDeliveries(store, refreshRoutes);
    for (let count = 0; count < 3; count++) {
      // By Redis' time: room for a beat that comes late.
      await redis.commands.pexpire(keys.gateway("g1"), 2 * HEARTBEAT_MS);
      await eventually(async () => {
        await deliveries.beat();
        expect(await redis.commands.pttl(keys.gateway("g1"))).toBeGreaterThan(2 * HEARTBEAT_MS);
      });
    }
    expect(refreshes).toBe(1);
    written.resolve();
    await eventually(async () => {
      await deliveries.beat();
      expect(refreshes).toBe(2);
    });
  }
  expect(await redis.commands.exists(keys.gateway("g1"))).toBe(0);
});

test("a new stream whose creation was not answered is not ours: routes are moved to the next one", async () => {
  await using store = await openTestStore("deliveries-lost-answer");
  const { redis, keys } = store;
  await using deliveries = await openDeliveries(store);
  const multi = redis.commands.multi.bind(redis.commands);
  let isLost = false;
  redis.commands.multi = (() => {
    const transaction = multi();
    const exec = transaction.exec.bind(transaction);
    transaction.exec = async () => {
      const replies = await exec();
      if (isLost) return replies;
      isLost = true;
      throw new Error("Connection is closed.");
    };
    return transaction;
  }) as typeof multi;
  await redis.commands.del(keys.gateway("g1"));
  await eventually(async () => {
    await deliveries.beat();
    expect(deliveries.moves).toEqual(["g1.2"]);
  });
  expect(await redis.commands.exists(keys.gateway("g1.2"))).toBe(1);
});

test("a stream that expires within a heartbeat is not brought back without its routes", async () => {
  await using store = await openTestStore("deliveries-expired");
  const { commands } = store.redis;
  await using deliveries = await openDeliveries(store);
  await deliveries.append("g1", "c 1 1", "frame");
  await eventually(() => expect(deliveries.delivered).toEqual(["frame"]));
  const xtrim = commands.xtrim.bind(commands) as (...args: unknown[]) => Promise<number>;
  let isExpired = false;
  commands.xtrim = (async (...args: unknown[]) => {
    if (!isExpired) await commands.del(store.keys.gateway("g1"));
    isExpired = true;
    return xtrim(...args);
  }) as typeof commands.xtrim;
  await eventually(async () => {
    await deliveries.beat();
    expect(deliveries.moves).toEqual(["g1.1"]);
  });
});

test("when Redis was away, all routes are in doubt, and what it has not forgotten is not written twice", async () => {
  await using store = await openTestStore("deliveries-away");
  await using deliveries = await openDeliveries(store);
  await deliveries.append("g1", "c 7 1", "before");
  await eventually(() => expect(deliveries.delivered).toEqual(["before"]));
  // The first connection may have taken two attempts.
  deliveries.doubts.length = 0;
  deliveries.reader.disconnect(true);
  await eventually(() => expect(deliveries.doubts).toEqual([0, 0]));
  await deliveries.append("g1", "c 7 1", "before", "c 8 1", "another");
  await eventually(async () => {
    await deliveries.beat();
    expect(deliveries.delivered).toEqual(["before", "another"]);
  });
});

test("when Redis was away and has forgotten what was read last, seqs come again", async () => {
  await using store = await openTestStore("deliveries-forgot");
  const { redis, keys } = store;
  await using deliveries = await openDeliveries(store);
  const last = await deliveries.append("g1", "c 7 1", "forgotten");
  await eventually(() => expect(deliveries.delivered).toEqual(["forgotten"]));
  deliveries.doubts.length = 0;
  deliveries.reader.disconnect(true);
  await redis.commands.xdel(keys.gateway("g1"), last!);
  await eventually(() => expect(deliveries.doubts).toEqual([0, 0]));
  await deliveries.append("g1", "c 7 1", "another");
  // Read again long before a heartbeat would trim the stream.
  await eventually(async () => {
    await deliveries.clock.advance(20);
    expect(deliveries.delivered).toEqual(["forgotten", "another"]);
  });
});

test("a route that was being written when routes came into doubt is written again, and its client told to sync", async () => {
  const answers = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  let attaches = 0;
  const attach = async () => {
    await answers[attaches++]!.promise;
    return { channels: [] };
  };
  const clock = createFakeClock();
  const sessions = new Sessions({
    ...{ node: "g1", logic: { attach } as unknown as Logic, clock, log: silentLog, metrics: createMetrics() },
    ...{ auth: undefined as never, limiters: undefined as never, limits: {} },
  });
  const session = sessions.create(undefined);
  session.user = "ann" as typeof session.user;
  sessions.add(session);
  const reasons: string[] = [];
  session.resync = (reason) => void reasons.push(reason);
  const attached = sessions.attach(session);
  await clock.advance(HEARTBEAT_MS);
  // Within the doubt by its answer, not by when it was asked for.
  sessions.doubtRoutes(clock.now());
  for (const answer of answers) answer.resolve();
  await attached;
  session.state = "open";
  await sessions.refreshRoutes();
  expect(reasons).toEqual(["lost"]);
  await sessions.refreshRoutes();
  expect(attaches).toBe(2);
});
