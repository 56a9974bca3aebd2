import { expect, test } from "bun:test";
import type { RedisKey } from "ioredis";
import { systemClock } from "../../lib/clock.ts";
import { attach, createPushDevices, createRouteCache, detach } from "../../lib/im/index.ts";
import { openTestStore } from "../support/redis.ts";

const route = (user: string, connection: string, gateway = "g1", number = 35) => ({
  user,
  connection,
  gateway,
  number,
  device: "phone",
});

test("a route attached before a refresh is seen after it; a detached one is gone", async () => {
  await using store = await openTestStore("routes");
  const { commands } = store.redis;
  const cache = createRouteCache(commands, store.keys, () => undefined);
  await cache.refresh();
  await cache.load(["ann"]);
  expect(cache.of("ann")).toEqual([]);

  await attach(commands, store.keys, systemClock, route("ann", "k1"));
  await cache.refresh();
  await cache.load(["ann"]);
  expect(cache.of("ann")).toEqual([{ connection: "k1", gateway: "g1", number: "z" }]);

  await detach(commands, store.keys, "ann", "k1");
  await cache.refresh();
  await cache.load(["ann"]);
  expect(cache.of("ann")).toEqual([]);
});

test("who has a device with push is known after the next refresh, also when the last one was dropped", async () => {
  await using store = await openTestStore("routes");
  const { commands } = store.redis;
  const cache = createRouteCache(commands, store.keys, () => undefined);
  const devices = createPushDevices(commands, store.keys, systemClock);
  const hasPush = async () => {
    await cache.refresh();
    await cache.load(["ann"]);
    return cache.hasPush("ann");
  };
  expect(await hasPush()).toBe(false);
  const address = { kind: "webhook", url: "https://push.example.com/" } as const;
  const first = await devices.register("ann", "phone", address);
  expect(await hasPush()).toBe(true);
  const second = await devices.register("ann", "phone", address);
  // A late answer to the first one takes nothing from the second.
  expect(await devices.drop("ann", "phone", first.id)).toBe(false);
  expect(await hasPush()).toBe(true);
  expect(await devices.drop("ann", "phone", second.id)).toBe(true);
  expect(await hasPush()).toBe(false);
});

test("a change of one user leaves the others cached, and names whom it touched", async () => {
  await using store = await openTestStore("routes");
  const { commands } = store.redis;
  const changed: (string | undefined)[] = [];
  const cache = createRouteCache(commands, store.keys, (user) => changed.push(user));
  await attach(commands, store.keys, systemClock, route("ann", "k1"));
  await cache.refresh();
  await cache.load(["ann", "bob"]);
  changed.length = 0;

  await attach(commands, store.keys, systemClock, route("bob", "k2"));
  await attach(commands, store.keys, systemClock, route("not-cached", "k3"));
  await cache.refresh();

  expect(changed).toEqual(["bob"]);
  expect(cache.of("ann")).toHaveLength(1);
});

test("a change that overtakes the answer of a read that was before it is not lost", async () => {
  await using store = await openTestStore("routes");
  const { commands } = store.redis;
  const cache = createRouteCache(commands, store.keys, () => undefined);
  await cache.refresh();
  const hgetall = commands.hgetall.bind(commands);
  const answer = Promise.withResolvers<void>();
  commands.hgetall = async (key: RedisKey) => {
    const routes = await hgetall(key);
    await answer.promise;
    return routes;
  };
  const before = [cache.load(["ann"]), cache.load(["ann"])];
  await attach(commands, store.keys, systemClock, route("ann", "k1"));
  await cache.refresh();
  answer.resolve();
  await Promise.all(before);
  expect(cache.has("ann")).toBe(false);

  await cache.load(["ann"]);
  expect(cache.of("ann").map(({ connection }) => connection)).toEqual(["k1"]);
});

test("a reader whose place in the log is gone drops all it knew", async () => {
  await using store = await openTestStore("routes");
  const { commands } = store.redis;
  const changed: (string | undefined)[] = [];
  const cache = createRouteCache(commands, store.keys, (user) => changed.push(user));
  await attach(commands, store.keys, systemClock, route("ann", "k1"));
  await cache.refresh();
  await cache.load(["ann"]);
  changed.length = 0;
  await commands.xtrim(store.keys.routeChanges(), "MAXLEN", 0);
  await attach(commands, store.keys, systemClock, route("ann", "k2"));

  await cache.refresh();
  await cache.load(["ann"]);

  expect(changed).toEqual([undefined]);
  expect(cache.of("ann").map(({ connection }) => connection)).toEqual(["k1", "k2"]);
});

test("a read that failed fails its own caller, and nobody behind it, then or later", async () => {
  await using store = await openTestStore("routes");
  const { commands } = store.redis;
  const cache = createRouteCache(commands, store.keys, () => undefined);
  await cache.refresh();
  const xrange = commands.xrange.bind(commands);
  commands.xrange = () => {
    commands.xrange = xrange;
    return Promise.reject(new Error("Connection is closed."));
  };
  const both = () => Promise.allSettled([cache.refresh(), cache.refresh()]);
  expect((await both()).map(({ status }) => status)).toEqual(["rejected", "fulfilled"]);
  expect((await both()).map(({ status }) => status)).toEqual(["fulfilled", "fulfilled"]);
});

test("a dead gateway's routes are removed, here and in Redis", async () => {
  await using store = await openTestStore("routes");
  const { commands } = store.redis;
  const cache = createRouteCache(commands, store.keys, () => undefined);
  await attach(commands, store.keys, systemClock, route("ann", "k1", "dead"));
  await attach(commands, store.keys, systemClock, route("ann", "k2", "alive"));
  await cache.refresh();
  await cache.load(["ann"]);

  await cache.forgetGateway("dead");

  expect(Object.keys(await commands.hgetall(store.keys.routes("ann")))).toEqual(["k2"]);
});
