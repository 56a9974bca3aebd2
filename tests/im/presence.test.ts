import { describe, expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import {
  attach,
  createBlocks,
  createDevices,
  createPresence,
  createPushDevices,
  detach,
  imUsers,
} from "../../lib/im/index.ts";
import { eventually } from "../support/eventually.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";

/** A user's connections, and what gateways are told of them. Gateways are their streams. */
async function setup(store: TestStore) {
  const { keys } = store;
  const redis = store.redis.commands;
  const blocks = createBlocks(redis, keys, systemClock);
  const presence = createPresence(redis, keys, systemClock, blocks);
  const gateway = (node: string) => redis.xadd(keys.gateway(node), "*", "- 0 ", "");
  await gateway("g1");
  await gateway("g2");
  return {
    redis,
    keys,
    blocks,
    presence,
    devices: createDevices(redis, keys, createPushDevices(redis, keys, systemClock)),
    attach: (user: string, connection: string, node = "g1", device = "") =>
      attach(redis, keys, systemClock, { user, connection, gateway: node, number: 7, device }),
    detach: (user: string, connection: string) => detach(redis, keys, user, connection),
    /** Those who are about to leave have been away long enough. */
    async passTime() {
      for (let partition = 0; partition < store.partitions; partition++) {
        const leaving = keys.leaving(partition);
        for (const user of await redis.zrange(leaving, "0", "-1")) await redis.zadd(leaving, 1, user);
      }
    },
    async sweep() {
      for (let partition = 0; partition < store.partitions; partition++) await presence.sweep(partition);
    },
    async events(user: string): Promise<string[]> {
      const rows = await redis.xrange(keys.topic(imUsers.name, keys.partitionOf(user)), "-", "+");
      return rows
        .map(([, [header]]) => header!.split(" "))
        .filter(([, , key]) => key === user)
        .map(([, type]) => type!);
    },
    async frames(node: string): Promise<[string, string][]> {
      const rows = await redis.xrange(keys.gateway(node), "-", "+");
      return rows.slice(1).map(([, [targets, frame]]) => [targets!, frame!]);
    },
  };
}

const state = async (world: Awaited<ReturnType<typeof setup>>, user: string) =>
  (await world.presence.watch("watcher", [user], "g2")).presence[0];

describe("a user", () => {
  test("is online with the first connection of any device and offline some time after the last", async () => {
    await using store = await openTestStore("presence");
    const world = await setup(store);
    expect(await state(world, "ann")).toEqual({ user: "ann", online: false });
    expect(await world.attach("ann", "c1")).toBe(true);
    expect(await world.attach("ann", "c2", "g2")).toBe(false);
    await world.detach("ann", "c1");
    await world.passTime();
    await world.sweep();
    expect(await state(world, "ann")).toEqual({ user: "ann", online: true, lastSeen: expect.any(Number) });
    await world.detach("ann", "c2");
    await world.sweep();
    expect(await state(world, "ann")).toMatchObject({ online: true });
    await world.passTime();
    await Promise.all([world.sweep(), world.sweep(), world.sweep()]);
    expect(await state(world, "ann")).toMatchObject({ online: false, lastSeen: expect.any(Number) });
    expect(await world.events("ann")).toEqual(["im.user.online", "im.user.offline"]);
  });

  test("who comes back in time never left", async () => {
    await using store = await openTestStore("presence");
    const world = await setup(store);
    await world.attach("ann", "c1");
    await world.detach("ann", "c1");
    expect(await world.attach("ann", "c2")).toBe(false);
    await world.passTime();
    await world.sweep();
    expect(await state(world, "ann")).toMatchObject({ online: true });
    expect(await world.events("ann")).toEqual(["im.user.online"]);
  });

  test("of a gateway that died goes with it, and one who has another connection stays", async () => {
    await using store = await openTestStore("presence");
    const world = await setup(store);
    await world.attach("ann", "c1", "g1");
    await world.attach("bob", "c2", "g1");
    await world.attach("bob", "c3", "g2");
    await world.redis.del(world.keys.gateway("g1"));
    await world.presence.sweepGateways();
    await world.passTime();
    await world.sweep();
    expect([await state(world, "ann"), await state(world, "bob")]).toMatchObject([{ online: false }, { online: true }]);
    expect(await world.redis.exists(world.keys.routes("ann"))).toBe(0);
    expect(await world.redis.hkeys(world.keys.routes("bob"))).toEqual(["c3"]);
    expect(await world.redis.zrange(world.keys.gateways(), "0", "-1")).toEqual(["g2"]);
    expect(await world.redis.exists(world.keys.gatewayUsers("g1"))).toBe(0);
  });
});

describe("watchers", () => {
  test("are told by their gateways of each change, once, and a gateway that is gone is forgotten", async () => {
    await using store = await openTestStore("presence");
    const world = await setup(store);
    await world.presence.watch("bob", ["ann"], "g2");
    await world.presence.watch("cid", ["ann"], "g2");
    await world.presence.watch("dan", ["ann"], "gone");
    await world.presence.tell({ user: "ann", online: true, lastSeen: 5 });
    const frame = '{"jsonrpc":"2.0","method":"presence","params":{"user":"ann","online":true,"lastSeen":5}}';
    expect(await world.frames("g2")).toEqual([["ann 0 ~", frame]]);
    expect(await world.redis.zrange(world.keys.watchers("ann"), "0", "-1")).toEqual(["g2"]);
    expect(await world.redis.pttl(world.keys.watchers("ann"))).toBeGreaterThan(60_000);
  });

  test("whom the user has blocked see nothing, and hear nothing from then on", async () => {
    await using store = await openTestStore("presence");
    const world = await setup(store);
    await world.attach("ann", "c1", "g1");
    await world.attach("bob", "c2", "g2");
    expect((await world.presence.watch("bob", ["ann"], "g2")).hidden).toEqual([]);
    await world.blocks.add("ann", "bob");
    await world.presence.hide("ann", "bob");
    expect(await world.frames("g2")).toEqual([["ann 0 ~-7", ""]]);
    expect(await world.presence.watch("bob", ["ann", "cid"], "g2")).toEqual({
      presence: [
        { user: "ann", online: false },
        { user: "cid", online: false },
      ],
      hidden: ["ann"],
    });
  });
});

describe("devices", () => {
  test("are listed online and not, a connection without a name as itself, and removed with what they hold", async () => {
    await using store = await openTestStore("presence");
    const world = await setup(store);
    await world.attach("ann", "c1", "g1", "phone");
    await world.attach("ann", "c2", "g2", "phone");
    await world.attach("ann", "c3", "g1");
    await world.attach("ann", "c4", "g1", "tablet");
    await world.detach("ann", "c4");
    const online = { online: true, connectedAt: expect.any(Number) };
    const listed = await world.devices.list("ann");
    expect(listed.at(-1)).toEqual({ id: "tablet", online: false, connections: 0, lastSeen: expect.any(Number) });
    expect(listed.slice(0, 2)).toContainEqual({ id: "phone", connections: 2, ...online });
    expect(listed.slice(0, 2)).toContainEqual({ id: "c3", connections: 1, ...online });
    await world.devices.remove("ann", "phone");
    await world.devices.remove("ann", "tablet");
    await world.devices.remove("ann", "nothing");
    for (const node of ["g1", "g2"]) {
      expect(await world.frames(node)).toEqual([["- 0 x 7", "this device was removed"]]);
    }
    await world.detach("ann", "c1");
    await world.detach("ann", "c2");
    expect((await world.devices.list("ann")).map(({ id }) => id)).toEqual(["c3"]);
  });

  test("are so many and no more: the one that was seen first makes room", async () => {
    await using store = await openTestStore("presence");
    const world = await setup(store);
    for (let i = 0; i < 55; i++) {
      await world.attach("ann", `c${i}`, "g1", `d${i}`);
      await world.detach("ann", `c${i}`);
      if (i < 6) await Bun.sleep(2);
    }
    const ids = (await world.devices.list("ann")).map(({ id }) => id);
    expect(ids).toHaveLength(50);
    for (let i = 0; i < 5; i++) expect(ids).not.toContain(`d${i}`);
  });

  test("a connection keeps its beginning when its route is written again", async () => {
    await using store = await openTestStore("presence");
    const world = await setup(store);
    await world.attach("ann", "c1", "g1", "phone");
    const [before] = await world.devices.list("ann");
    await eventually(() => expect(Date.now()).toBeGreaterThan(before!.connectedAt!));
    await world.attach("ann", "c1", "g1", "phone");
    expect(await world.devices.list("ann")).toEqual([before!]);
  });
});
