import { expect, test } from "bun:test";
import { redisTimeMs } from "../../lib/redis/index.ts";
import { LEASE_MS } from "../../lib/rpc/registry.ts";
import { eventually } from "../support/eventually.ts";
import { openTestRpc, spawnServer } from "./support.ts";

test("an instance is listed while it runs and gone when it stops", async () => {
  await using rpc = await openTestRpc("rpc-live");
  const node = rpc.node("gateway");
  const announced = node.announce("gateway", "g-1");
  const other = node.announce("gateway", "g-2");
  await Promise.all([announced.start(), other.start()]);
  const watcher = rpc.node("logic");
  expect((await watcher.live("gateway")).toSorted()).toEqual(["g-1", "g-2"]);
  await announced.stop(AbortSignal.abort());
  // Not only when its lease ends.
  const { redis, keys } = rpc.store;
  expect(await redis.commands.hkeys(keys.registry("gateway"))).toEqual(["g-2"]);
  await eventually(async () => expect(await watcher.live("gateway")).toEqual(["g-2"]));
  await other.stop(AbortSignal.abort());
});

test("an instance that was killed disappears within its lease", async () => {
  await using rpc = await openTestRpc("rpc-lease");
  const child = await spawnServer(rpc, "logic-a");
  const survivor = await spawnServer(rpc, "logic-b");
  const node = rpc.node("gateway");
  expect((await node.live("logic")).toSorted()).toEqual(["logic-a", "logic-b"]);
  child.kill("SIGKILL");
  await child.exited;
  const { redis, keys } = rpc.store;
  const killedAt = await redisTimeMs(redis.commands);
  const record = await redis.commands.hget(keys.registry("logic"), "logic-a");
  // Undefined when it has ended by now, and another one has swept it.
  const leaseEnd = Number(record?.split(" ")[0] ?? killedAt);
  expect(leaseEnd).toBeLessThanOrEqual(killedAt + LEASE_MS);
  await eventually(async () => expect(await node.live("logic")).toEqual(["logic-b"]));
  expect(await redisTimeMs(redis.commands)).toBeGreaterThanOrEqual(leaseEnd);
  survivor.kill("SIGTERM");
  expect(await survivor.exited).toBe(0);
});

test("a paused process does not take its name back from its successor", async () => {
  await using rpc = await openTestRpc("rpc-zombie");
  const { redis, keys } = rpc.store;
  const old = rpc.node("gateway").announce("gateway", "g-1");
  await old.start();
  await Bun.sleep(2);
  const successor = rpc.node("gateway").announce("gateway", "g-1");
  await successor.start();
  const record = async () => (await redis.commands.hget(keys.registry("gateway"), "g-1"))?.split(" ")[1];
  const held = await record();
  await Bun.sleep(1_100);
  expect(await record()).toBe(held);
  await old.stop(AbortSignal.abort());
  expect(await record()).toBe(held);
  await successor.stop(AbortSignal.abort());
  expect(await record()).toBeUndefined();
});
