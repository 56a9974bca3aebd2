/**
 * One smoke test each of Redis Cluster and Sentinel through the one factory. On the Cluster every script of the house runs
 * and every read of a send → deliver → history round: one that crosses slots would fail with CROSSSLOT.
 */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { systemClock } from "../../lib/clock.ts";
import {
  attach,
  createBroadcasts,
  createBursts,
  createTrim,
  createWinback,
  delivered,
  detach,
  history,
  read,
  receipts,
  runBroadcasts,
  sync,
  typing,
} from "../../lib/im/index.ts";
import { declare } from "../../lib/mq/consumer.ts";
import { defineTopic, openQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { openRedis, type RedisClient } from "../../lib/redis/index.ts";
import { openRpcNode } from "../../lib/rpc/index.ts";
import { createDelivery } from "../../workers/logic/delivery.ts";
import { createInboxConsumer } from "../../workers/logic/inbox.ts";
import { eraserOf } from "../support/erasure.ts";
import { eventually } from "../support/eventually.ts";
import { makeChat } from "../support/im.ts";
import {
  roundOfAside,
  roundOfConsumeTransactions,
  roundOfDeclarations,
  roundOfDelayed,
  roundOfHalves,
  roundOfRedrive,
} from "../support/queue-rounds.ts";
import { openTestStore } from "../support/redis.ts";
import { startTestCluster, startTestSentinel, type TestTopology } from "../support/redis-cluster.ts";

const LUA = join(import.meta.dir, "../../lib/redis/lua");

let cluster: TestTopology;
beforeAll(async () => {
  cluster = await startTestCluster();
});
afterAll(() => cluster[Symbol.asyncDispose]());

test("no script and no read of the chat, the queue and the registry crosses slots", async () => {
  await using store = await openTestStore("cluster", { url: cluster.url, partitions: 16 });
  const { redis, keys, metrics } = store;
  expect(redis.topology).toBe("cluster");
  const called = recordScripts(redis.commands);
  const chat = makeChat(store);
  const queue = openQueue({ redis, keys, clock: systemClock, log: silentLog, metrics, member: "t.logic" });
  const services = [
    createDelivery({ redis: redis.commands, keys, queue, metrics }),
    createInboxConsumer({ redis: redis.commands, keys, clock: systemClock, queue }),
  ];

  // A gateway with one connection of bob; its stream exists, so it is alive.
  const gateway = keys.gateway("g1");
  await redis.commands.xadd(gateway, "1-1", "- 0", "{}");
  await attach(chat.redis, keys, systemClock, { user: "bob", connection: "k1", gateway: "g1", number: 7, device: "d" });
  for (const service of services) await service.start();

  // Enough conversations to lie on all three masters.
  const ids: string[] = [];
  for (let i = 0; i < 12; i++) ids.push(await chat.group("ann", "bob"));
  await Promise.all(ids.flatMap((id) => [1, 2, 3].map((n) => chat.send("ann", id, `text ${n}`))));
  await chat.conversations.create("ann", { type: "direct", members: ["bob"] });
  const [first] = ids as [string];
  await chat.conversations.add("ann", first, ["cid"]);
  await chat.conversations.change("ann", first, { title: "Tea" });

  await eventually(async () => {
    const frames = (await redis.commands.xrange(gateway, "-", "+")).flatMap(([, fields]) => fields);
    // `=`: the connections of the frame before.
    const places = frames.filter((_, i) => i % 2 === 0).map((targets) => targets.replace(/ [=7]$/, ""));
    for (const id of ids) for (const seq of [1, 2, 3]) expect(places).toContain(`${id} ${seq}`);
  });
  for (const id of ids) {
    const { messages } = await history(chat, "bob", { conversation: id, limit: 10 });
    expect(messages.map((message) => message.body.text).toSorted()).toEqual(["text 1", "text 2", "text 3"]);
    expect((await read(chat, "bob", id, 3)).unread).toBe(0);
  }
  await eventually(async () => expect((await chat.list("bob", 100)).conversations).toHaveLength(13));
  expect((await sync(chat, "bob")).conversations).toHaveLength(13);
  for (const service of services.toReversed()) await service.stop(AbortSignal.timeout(2_000));

  await chat.amendments.edit("ann", { conversation: first, seq: 1 }, { text: "text one" });
  await createTrim(redis.commands, keys, 2)(first, (await chat.conversations.get("ann", first)).epoch, 3);
  await chat.blocks.add("bob", "ann");
  await chat.send("eve", await chat.group("eve", "bob"), "of one who will be erased");
  await roundOfPresence();
  await roundOfWinback();
  await roundOfErasure();
  await roundOfBroadcasts();
  await roundOfAgenda();

  const options = { redis, keys, clock: systemClock, log: silentLog, metrics, member: "t.logic" };
  await roundOfAside(queue);
  await roundOfRedrive(queue);
  await roundOfHalves(options);
  await roundOfDelayed(queue);
  await roundOfDeclarations(queue);
  await roundOfConsumeTransactions(queue);
  await roundOfQueue("ordered");
  await roundOfQueue("concurrent");
  await roundOfPull("ordered");
  await roundOfPull("concurrent");
  await queue.pull.dispose();
  await roundOfRegistry();
  expect(loadedScripts(redis.commands).filter((name) => !called.has(name))).toEqual([]);

  /** What is told and not stored, and the end of a connection. */
  async function roundOfPresence(): Promise<void> {
    await delivered(chat, "bob", ids[1]!, 3);
    await receipts(chat, "bob", ids[1]!);
    await typing(chat, "ann", ids[1]!, true);
    const { conversation } = await chat.conversations.create("ann", { type: "channel", members: ["bob"] });
    expect(await chat.channels.heardBy("bob", "g1")).toEqual([conversation.id]);
    await chat.presence.watch("ann", ["bob"], "g1");
    await chat.pushDevices.register("bob", "d", { kind: "webhook", url: "https://push.example.com/" });
    await createBursts(chat.redis, keys, systemClock).join({ user: "bob", conversation: ids[1]!, seq: 3 }, 60_000);
    await chat.devices.remove("bob", "d");
    await detach(chat.redis, keys, "bob", "k1");
    await chat.redis.zadd(keys.leaving(keys.partitionOf("bob")), 1, "bob");
    await chat.presence.sweep(keys.partitionOf("bob"));
    expect((await chat.presence.watch("ann", ["bob"], "g1")).presence[0]?.online).toBe(false);
    await chat.presence.sweepGateways();
  }

  /** One pass over all masters: the groups that would have to finish the events stand still by now. */
  async function roundOfErasure(): Promise<void> {
    const { erasures, pass } = eraserOf(chat, queue);
    await erasures.begin("eve");
    await pass();
    expect((await erasures.report("eve"))?.erased).toMatchObject({ conversations: 1, entries: 3 });
  }

  async function roundOfWinback(): Promise<void> {
    const winback = createWinback(chat.redis, keys, systemClock, { idleMs: 0, periodMs: 1_000, push: undefined });
    const counts = await Promise.all(Array.from({ length: keys.partitions }, (_, p) => winback.sweep(p)));
    expect(counts.some((count) => count > 0)).toBe(true);
  }

  /** To everybody, to a list, to a conversation: published on all masters. */
  async function roundOfBroadcasts(): Promise<void> {
    const broadcasts = createBroadcasts(chat.redis, keys, systemClock);
    const wanted = { by: "skein", type: "text", body: { text: "hello" }, perSecond: 1_000 };
    const list = Array.from({ length: 12 }, (_, i) => `listed-${i}`);
    for (const audience of [{ all: true } as const, { users: list }, { conversation: first }]) {
      const { broadcast } = await broadcasts.create({ ...wanted, audience });
      await eventually(async () => {
        await runBroadcasts({ redis: chat.redis, keys, clock: systemClock, log: silentLog });
        expect((await broadcasts.get(broadcast.id)).total).toBeGreaterThan(1);
      });
      await broadcasts.order(broadcast.id, "pause");
      expect(await broadcasts.order(broadcast.id, "cancel")).toMatchObject({ state: "cancelled" });
    }
  }

  /** Of users on all masters: put off, moved, due, put off again, cancelled. */
  async function roundOfAgenda(): Promise<void> {
    const { reminders } = chat;
    for (const user of Array.from({ length: 12 }, (_, i) => `busy-${i}`)) {
      const { id } = await reminders.create(user, { at: 0, text: "tea" });
      const record = (await chat.redis.hget(keys.agenda(user, "reminders"), id))!.split(" ")[4]!;
      expect(await reminders.fire(user, id, record)).toMatchObject({ state: "fired" });
      const at = Date.now() + 60_000;
      expect(await reminders.snooze(user, id, at)).toBe("ok");
      expect(await reminders.list(user, { limit: 1, after: "0:none" })).toMatchObject({ reminders: [{ at }] });
      expect(await reminders.cancel(user, id)).toBe("ok");
    }
  }

  async function roundOfQueue(mode: "ordered" | "concurrent"): Promise<void> {
    const topic = defineTopic(`smoke.${mode}`, { schema: v.strictObject({ n: v.number() }) });
    const seen = new Set<number>();
    const consumer = queue.consume(topic, {
      group: "smoke",
      mode,
      leaseMs: 1_000,
      backoff: [10],
      async handle({ data, attempt }) {
        if (data.n === 1 && attempt === 1) throw new Error("once more");
        // Longer than a third of the lease: it is renewed meanwhile.
        if (data.n === 2) await Bun.sleep(500);
        seen.add(data.n);
      },
    });
    await consumer.start();
    const inputs = Array.from({ length: 50 }, (_, n) => ({
      type: "n",
      key: `key-${n}`,
      data: { n },
      dedupId: `d${n}`,
    }));
    await queue.publishMany(topic, inputs);
    await eventually(() => expect(seen.size).toBe(50));
    expect((await queue.describe(topic)).groups).toMatchObject([{ group: "smoke", deadLetters: 0 }]);
    await consumer.stop(AbortSignal.timeout(2_000));
    await queue.trim(topic);
  }

  async function roundOfPull(mode: "ordered" | "concurrent"): Promise<void> {
    const topic = defineTopic(`pulled.${mode}`, { schema: v.strictObject({ n: v.number() }) });
    const group = declare<unknown>({ group: "pull", mode, leaseMs: 5_000, handle: () => undefined });
    const receive = () => queue.pull.receive(topic, group, { max: 100, waitMs: 20_000 });
    const waiting = receive();
    const inputs = Array.from({ length: 50 }, (_, n) => ({ type: "n", key: `key-${n}`, data: { n } }));
    await queue.publishMany(topic, inputs);
    await eventually(async () => expect((await waiting).length).toBeGreaterThan(0));
    await queue.control.pause(topic, "pull");
    expect(await queue.pull.receive(topic, group)).toEqual([]);
    await queue.control.resume(topic, "pull");
    await queue.control.seek(topic, "pull", "first");
    const seen = new Set<number>();
    while (seen.size < 50) {
      const received = await receive();
      for (const { message } of received) seen.add(message.data.n);
      const [first, ...others] = received.map(({ token }) => token) as [string, ...string[]];
      expect(await queue.pull.renew(topic, group, [first], 5_000)).toMatchObject([{ result: "ok" }]);
      expect(await queue.pull.nack(topic, group, first, { kind: "reject" })).toMatchObject({ result: "ok" });
      expect((await queue.pull.ack(topic, group, others)).every(({ result }) => result === "ok")).toBe(true);
    }
    expect((await queue.describe(topic)).groups).toMatchObject([{ group: "pull", lag: 0 }]);
    await queue.control.dropGroup(topic, "pull");
  }

  async function roundOfRegistry(): Promise<void> {
    const listen = { directory: "", host: "" };
    const node = openRpcNode({
      ...{ role: "gateway", instance: "g1", redis, keys, secret: "of this test", clock: systemClock, log: silentLog },
      ...{ metrics, listen, local: new Map() },
    });
    const announced = node.announce("gateway");
    await announced.start();
    expect(await node.live("gateway")).toEqual(["g1"]);
    await announced.stop(AbortSignal.timeout(1_000));
  }
});

test("a Sentinel URL opens the master and follows a failover", async () => {
  await using sentinel = await startTestSentinel();
  const redis = await openRedis(sentinel.url, "t-sentinel", silentLog);
  try {
    expect(redis.topology).toBe("sentinel");
    // Of a master that stood still for a second the Sentinel has made a replica.
    await eventually(async () => expect(await redis.commands.set("t-sentinel", "before")).toBe("OK"));
    // As ioredis' detector of failovers does when it hears of the new master while the Sentinel is asked for it.
    const { connector } = redis.commands as unknown as {
      connector: { resolve(of: unknown): Promise<unknown>; disconnect(): void };
    };
    const resolve = connector.resolve.bind(connector);
    connector.resolve = async (of) => {
      const found = await resolve(of);
      connector.resolve = resolve;
      connector.disconnect();
      return found;
    };
    sentinel.servers[0]!.kill("SIGKILL");
    await eventually(async () => expect(await redis.commands.set("t-sentinel", "after")).toBe("OK"));
    expect(await redis.commands.get("t-sentinel")).toBe("after");
  } finally {
    await redis.close();
  }
});

/** Notes each script that is called on this connection. */
function recordScripts(client: RedisClient): Set<string> {
  const called = new Set<string>();
  const commands = client as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>;
  for (const name of loadedScripts(client)) {
    const run = commands[name]!;
    // ioredis lends the function to its pipelines, so `this` is not always the client.
    commands[name] = function (this: unknown, ...args) {
      called.add(name);
      return run.apply(this, args);
    };
  }
  return called;
}

/**
 * The files of lib/redis/lua by their camelCase names, as far as something here uses them. Left out: fragments, which run
 * inside others, and scripts of one key, which cannot cross slots.
 */
function loadedScripts(client: RedisClient): string[] {
  return readdirSync(LUA)
    .filter((file) => readFileSync(join(LUA, file), "utf8").includes("KEYS[2]"))
    .map((file) => file.replace(".lua", "").replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase()))
    .filter((name) => name in client);
}
